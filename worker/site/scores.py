"""How good a model is on a split, by class: what a site sees of its own model.

Computed with numpy: each process of a worker would wait a second for scikit-learn, whose results
the tests hold these to.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

from shared.rest.schema import Count

_CALIBRATION_BINS = 15
"""As in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""

RECORD = ConfigDict(frozen=True, ser_json_inf_nan="strings")
"""Of what is kept as JSON: a loss that is not finite is said so, and read again."""

_Float64 = npt.NDArray[np.float64]


class ClassScores(BaseModel):
    """One class against all others. What no example says is None."""

    model_config = RECORD

    name: str
    examples: Count
    sensitivity: float | None
    """How many of its examples are found, 0 to 1."""
    specificity: float | None
    """How many of the others are not taken for it, 0 to 1."""
    auroc: float | None
    """Area under the receiver operating characteristic of its probability, 0 to 1."""


class Scores(BaseModel):
    """A model on one split."""

    model_config = RECORD

    accuracy: float
    loss: float
    """Mean cross-entropy, in nats."""
    balanced_accuracy: float
    """Mean sensitivity of the classes that there are."""
    auroc: float | None
    """Mean over the classes that have one."""
    calibration_error: float
    """ECE: how far the probability of what the model says is from how often it is right."""
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[Count, ...], ...]
    """Examples by true class (row) and what the model says (column)."""


def scores_of(logits: torch.Tensor, labels: torch.Tensor, class_names: tuple[str, ...]) -> Scores:
    """Scores of a model.

    Args:
        logits: (n, classes), finite, n at least 1.
        labels: int64, (n,).
        class_names: one for each column of ``logits``.
    """
    log_probabilities = logits.double().log_softmax(dim=1)
    probabilities: _Float64 = logits.double().softmax(dim=1).numpy()
    truth = labels.numpy()
    count, num_classes = probabilities.shape
    said = probabilities.argmax(axis=1)
    confusion = np.bincount(truth * num_classes + said, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    classes = tuple(
        _of_class(name, label, confusion, truth == label, probabilities[:, label])
        for label, name in enumerate(class_names)
    )
    sensitivities = [one.sensitivity for one in classes if one.sensitivity is not None]
    areas = [one.auroc for one in classes if one.auroc is not None]
    return Scores(
        accuracy=float(np.trace(confusion) / count),
        loss=float(-log_probabilities[torch.arange(count), labels].mean()),
        balanced_accuracy=float(np.mean(sensitivities)),
        auroc=float(np.mean(areas)) if areas else None,
        calibration_error=_calibration_error(probabilities.max(axis=1), said == truth),
        classes=classes,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _of_class(
    name: str,
    label: int,
    confusion: npt.NDArray[np.int64],
    is_it: npt.NDArray[np.bool_],
    probability: _Float64,
) -> ClassScores:
    total = int(confusion.sum())
    own, taken = int(confusion[label].sum()), int(confusion[:, label].sum())
    found = int(confusion[label, label])
    others = total - own
    return ClassScores(
        name=name,
        examples=own,
        sensitivity=found / own if own else None,
        specificity=1 - (taken - found) / others if others else None,
        auroc=_area(probability, is_it) if own and others else None,
    )


def _area(probability: _Float64, is_it: npt.NDArray[np.bool_]) -> float:
    """How often an example of the class has a higher probability than another; ties count half."""
    _, places, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(counts) - (counts - 1) / 2
    own, others = int(is_it.sum()), int((~is_it).sum())
    pairs = middle_ranks[places][is_it].sum() - own * (own + 1) / 2
    return float(pairs / (own * others))


def _calibration_error(confidence: _Float64, is_right: npt.NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    claimed = np.bincount(bins, weights=confidence, minlength=_CALIBRATION_BINS)
    right = np.bincount(bins, weights=is_right, minlength=_CALIBRATION_BINS)
    return float(np.abs(claimed - right).sum() / len(confidence))
