"""Plans, modules and clients of hyperfl-lpm that are small enough for unit tests."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import batch_norm

from shared.federation.plans import TrainingPlan
from worker.data.images import ImageShape
from worker.models.backbone_weights import load_frozen_backbone, pin_backbone
from worker.models.registry import FeatureExtractor

IMAGE_SHAPE: ImageShape = (3, 32, 32)
VIT = "vit:test_vit"
RESNET = "resnet18"


@cache
def random_digest(model: str, image_shape: ImageShape) -> str:
    """Of the backbone's random weights, which a fixed seed draws."""
    return pin_backbone(model, image_shape, "random", None)


def random_backbone(
    model: str, image_shape: ImageShape = IMAGE_SHAPE, *, with_adapters: bool = True
) -> FeatureExtractor:
    """The frozen backbone with random weights."""
    return load_frozen_backbone(
        model,
        image_shape,
        source="random",
        expected_digest=random_digest(model, image_shape),
        file=None,
        with_adapters=with_adapters,
    )


class _LoneValueNorm(nn.BatchNorm2d):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.numel() > self.num_features:
            return super().forward(maps)
        statistics = self.running_mean, self.running_var
        return batch_norm(maps, *statistics, self.weight, self.bias, eps=self.eps)


def with_lone_values(module: nn.Module) -> nn.Module:
    """A copy for plain loops, that trains on one image with maps of 1×1 too."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = _LoneValueNorm
    return module


def lpm_plan(model: str, digest: str | None = None, **hyperparameters: Any) -> TrainingPlan:
    return TrainingPlan(
        method="hyperfl-lpm",
        model=model,
        image_shape=IMAGE_SHAPE,
        num_classes=3,
        hyperparameters={
            "embedding_size": 6,
            "hidden_size": 4,
            "batch_size": 5,
            "epochs": 2,
            "backbone_weights": "random",
            "backbone_digest": digest or random_digest(model, IMAGE_SHAPE),
        }
        | hyperparameters,
    )
