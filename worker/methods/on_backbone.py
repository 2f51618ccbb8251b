"""Baselines on a frozen, pretrained backbone: adapters and head, or the head, shared or local.

They are what HyperFL-LPM is compared with.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from shared.federation.hyperparameters import BackboneModelPlan, BackbonePlan
from shared.federation.plans import TrainingPlan
from worker.methods.interface import PrivateTensors, SiteResources
from worker.methods.whole_model.client import ModelClient
from worker.methods.whole_model.method import ModelMethod
from worker.methods.whole_model.sgd import train_model
from worker.models.backbone_weights import load_frozen_backbone
from worker.models.registry import FeatureExtractor


class BackboneMethod(ModelMethod):
    """A :class:`ModelMethod` whose extractor is a frozen backbone, in bfloat16 on CUDA.

    Of the backbone only adapters can be trained, and only their statistics change. A ResNet's
    hidden layer is part of the head.

    Attributes:
        has_adapters: whether the backbone has adapters; without any, the extractor is fixed.
    """

    has_adapters: ClassVar[bool]
    plan_type = BackboneModelPlan
    _plan: BackboneModelPlan

    def build_extractor(self, plan: TrainingPlan, resources: SiteResources) -> FeatureExtractor:
        """See :class:`ModelMethod`."""
        return build_backbone(plan, self._plan, resources, with_adapters=self.has_adapters)

    def mixed_precision(self, device: torch.device) -> bool:
        """See :class:`ModelMethod`."""
        return device.type == "cuda"

    def train_client(self, client: ModelClient) -> PrivateTensors:
        """Epochs of SGD on everything that is trained, shared or not."""
        train_model(client, self._plan)
        return {}


class FedAvgAdapter(BackboneMethod):
    """Shares the adapters and the head.

    Private are the adapters' batch statistics (a vision transformer has none), for three reasons:
    HyperFL-LPM keeps them, so the two differ in what they share of the trained parameters and in
    nothing else; averages of unlike clients' statistics fit none of them (FedBN, see
    :mod:`worker.methods.whole_model.method`); and a variance whose change was rounded or truncated
    on its way may become negative.
    """

    has_adapters = True
    shares_extractor = True
    shares_head = True


class LocalAdapter(BackboneMethod):
    """Shares nothing: adapters, their statistics and the head are private."""

    has_adapters = True
    shares_extractor = False
    shares_head = False


class FedAvgFixed(BackboneMethod):
    """Shares the head; nothing is private, since the backbone has no part that changes."""

    has_adapters = False
    shares_extractor = False
    shares_head = True


class LocalFixed(BackboneMethod):
    """Shares nothing: the head is private, and the backbone has no part that changes."""

    has_adapters = False
    shares_extractor = False
    shares_head = False


def build_backbone(
    plan: TrainingPlan, pinned: BackbonePlan, resources: SiteResources, *, with_adapters: bool
) -> FeatureExtractor:
    """The plan's backbone with the weights that it pins.

    Raises:
        ModelError: it cannot be used, or its weights are not the federation's.
    """
    return load_frozen_backbone(
        plan.model,
        plan.image_shape,
        source=pinned.backbone_weights,
        expected_digest=pinned.backbone_digest,
        file=resources.backbone_weights_file,
        with_adapters=with_adapters,
    )
