"""Clients with random images for methods to train on."""

from __future__ import annotations

from typing import Any

import torch

from shared.federation.plans import TrainingPlan
from worker.data.client_data import ClientData, Examples
from worker.data.images import ImageShape, LabelledImages
from worker.data.scaling import PixelScaling
from worker.methods.interface import SiteResources
from worker.models.allowed_imports import AllowedImports

NUM_CLASSES = 3
IMAGE_SHAPE = (1, 4, 4)

TESTS_ALLOWED = AllowedImports(("tests",))
RESOURCES = SiteResources(allowed_imports=TESTS_ALLOWED)
"""Of a site that trusts the tests' own models and methods."""


def random_client_data(
    seed: int,
    num_train: int,
    num_test: int = 7,
    image_shape: ImageShape = IMAGE_SHAPE,
    *,
    augment: bool = False,
    num_validation: int = 0,
) -> ClientData:
    """``augment`` is for the training split."""
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int, *, augment: bool = False) -> Examples:
        return _examples(generator, count, image_shape, NUM_CLASSES, augment=augment)

    return ClientData(
        examples(num_train, augment=augment),
        examples(num_test),
        validation=examples(num_validation) if num_validation else None,
    )


def random_examples_of(
    seed: int, count: int, image_shape: ImageShape, num_classes: int
) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return _examples(generator, count, image_shape, num_classes, augment=False)


def _examples(
    generator: torch.Generator,
    count: int,
    image_shape: ImageShape,
    num_classes: int,
    *,
    augment: bool,
) -> Examples:
    images = torch.randint(256, (count, *image_shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return Examples(
        LabelledImages(images, labels, tuple(str(label) for label in range(num_classes))),
        torch.arange(count),
        PixelScaling((0.5,) * image_shape[0], (0.5,) * image_shape[0], image_shape),
        augment=augment,
    )


def tiny_plan(model: str = "tiny", **hyperparameters: Any) -> TrainingPlan:
    return TrainingPlan(
        method="hyperfl",
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={
            "embedding_size": 6,
            "hidden_size": 4,
            "batch_size": 5,
            "epochs": 2,
            "feature_dropout": 0.0,
        }
        | hyperparameters,
    )
