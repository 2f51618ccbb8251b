"""A classifier that everybody knows and nobody trains."""

from __future__ import annotations

import torch

from worker.errors import ModelError

_ROW_NORM = 4.0


def public_head(num_classes: int, feature_width: int) -> torch.Tensor:
    """Weight (classes, width), float32, of a head without bias.

    Each class has its own features, as many as every other: its logit is their mean less that of
    all others', times a scale that no other was tried against. A head that is fixed costs little
    accuracy (Hoffer et al., "Fix your classifier", ICLR 2018).

    Raises:
        ModelError: there are fewer features than classes.
    """
    per_class = feature_width // num_classes
    if per_class == 0:
        raise ModelError(
            f"differential privacy needs a feature for each class, but the extractor has "
            f"{feature_width} features for {num_classes} classes"
        )
    own = torch.eye(num_classes).repeat(1, per_class)
    weight = torch.zeros(num_classes, feature_width)
    weight[:, : own.shape[1]] = own - (1 - own) / (num_classes - 1)
    scale: torch.Tensor = _ROW_NORM / torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight * scale
