"""A classifier that everybody knows and nobody trains."""

from __future__ import annotations

import torch

from shared.federation.hyperparameters import HypernetworkPlan
from shared.federation.plans import TrainingPlan
from worker.errors import ModelError
from worker.methods.local_round.head import Head
from worker.models.registry import FeatureExtractor

ROW_NORM = 1.0
"""Of the head that ``training_head = "public"`` trains with; with 4 the trunks collapsed."""
ROW_NORM_OF_PRIVATE_STEPS = 4.0
"""Of the head of private steps: a scale that no other was tried against."""


def public_head(
    num_classes: int, feature_width: int, row_norm: float, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Weight (classes, width) of a head without bias.

    Each class has its own features, as many as every other: its logit is their mean less that of
    all others', scaled so that each row's norm is ``row_norm``. A head that is fixed costs little
    accuracy (Hoffer et al., "Fix your classifier", ICLR 2018). Of clients whose heads differ, it
    aligns the features (Oh et al., "FedBABU", ICLR 2022; Li et al., "No Fear of Classifier
    Biases", ICCV 2023).

    Raises:
        ModelError: there are fewer features than classes.
    """
    per_class = feature_width // num_classes
    if per_class == 0:
        raise ModelError(
            f"a public head needs a feature for each class, but the extractor has "
            f"{feature_width} features for {num_classes} classes"
        )
    own = torch.eye(num_classes, dtype=dtype).repeat(1, per_class)
    weight = torch.zeros(num_classes, feature_width, dtype=dtype)
    weight[:, : own.shape[1]] = own - (1 - own) / (num_classes - 1)
    scale: torch.Tensor = row_norm / torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight * scale


def training_head_of(
    settings: HypernetworkPlan, plan: TrainingPlan, extractor: FeatureExtractor
) -> Head | None:
    """What the hypernetwork is trained with instead of each client's own head: float64, on the CPU.

    Raises:
        ModelError: there is no public head for this extractor.
    """
    if settings.training_head is None:
        return None
    if extractor.private_hidden_width is not None:
        raise ModelError(
            f"training_head = {settings.training_head} needs features that the classes are read "
            f"off, but model {plan.model!r} has a hidden layer before them"
        )
    weight = public_head(plan.num_classes, extractor.feature_width, ROW_NORM, torch.float64)
    return Head({"head.weight": weight, "head.bias": weight.new_zeros(plan.num_classes)})
