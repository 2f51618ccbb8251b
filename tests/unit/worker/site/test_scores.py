"""Scores of a model: held to what scikit-learn says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
    roc_auc_score,
)

from worker.site.scores import scores_of

NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [0, 5], ids=["ties", "no ties"])
def test_they_are_scikit_learns(seed: int, decimals: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, 200)
    logits = np.round(generator.normal(0, 2, (200, 4)) + 2 * np.eye(4)[labels], decimals)
    found = scores_of(torch.from_numpy(logits), torch.from_numpy(labels), NAMES)
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    said = probabilities.argmax(axis=1)
    assert found.confusion == tuple(map(tuple, confusion_matrix(labels, said).tolist()))
    assert found.accuracy == pytest.approx((said == labels).mean())
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, said))
    assert found.loss == pytest.approx(log_loss(labels, probabilities))
    assert found.auroc == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    for label, one in enumerate(found.classes):
        is_it, says_it = labels == label, said == label
        assert (one.name, one.examples) == (NAMES[label], is_it.sum())
        assert one.sensitivity == pytest.approx(recall_score(is_it, says_it))
        assert one.specificity == pytest.approx(recall_score(~is_it, ~says_it))
        assert one.auroc == pytest.approx(roc_auc_score(is_it, probabilities[:, label]))


def test_what_no_example_says_is_left_out() -> None:
    found = scores_of(
        torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), torch.tensor([0, 0]), NAMES[:3]
    )
    a, b, _ = found.classes
    assert (a.sensitivity, a.specificity, a.auroc) == (0.5, None, None)
    assert (b.sensitivity, b.specificity, b.auroc) == (None, 0.5, None)
    assert (found.balanced_accuracy, found.auroc) == (0.5, None)


def test_a_model_that_knows_how_often_it_is_right_is_calibrated() -> None:
    logits = torch.tensor([[0.75, 0.25]]).log().repeat(4, 1)
    labels = torch.tensor([0, 0, 0, 1])
    assert scores_of(logits, labels, NAMES[:2]).calibration_error == pytest.approx(0.0, abs=1e-6)
    sure = torch.tensor([[1.0, 0.0]]).clamp(1e-9).log().repeat(4, 1)
    assert scores_of(sure, labels, NAMES[:2]).calibration_error == pytest.approx(0.25)
