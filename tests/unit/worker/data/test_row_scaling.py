"""Rows as a model takes them: a site's own mean and deviation, categories one-hot."""

from __future__ import annotations

import numpy as np
import torch

from shared.federation.features import Feature
from tests.support.rows import FEATURES
from worker.data.row_scaling import measured_scaling

NAN = float("nan")


def test_numbers_are_standardised_and_categories_one_hot() -> None:
    rows = np.array([[10, 0, 1], [30, 2, 3], [NAN, 1, NAN]], np.float32)
    scaling = measured_scaling(FEATURES, rows)
    assert scaling.mean.tolist() == [20, 0, 2], "of what is there"
    assert scaling.std.tolist() == [10, 1, 1]
    expected = [[-1, 1, 0, 0, -1], [1, 0, 0, 1, 1], [0, 0, 1, 0, 0]]
    assert scaling.apply(torch.from_numpy(rows)).tolist() == expected


def test_a_missing_category_is_none_of_them() -> None:
    scaling = measured_scaling(FEATURES, np.array([[1, 0, 1], [3, 1, 3]], np.float32))
    found = scaling.apply(torch.tensor([[2.0, NAN, 2.0]]))
    assert found.tolist() == [[0, 0, 0, 0, 0]]


def test_constant_and_empty_columns_stay_finite() -> None:
    features = (Feature(name="constant"), Feature(name="empty"))
    # The mean of these in binary is not quite 0.1, so the deviation is not quite 0.
    rows = np.array([[0.1, NAN]] * 7, np.float32)
    scaling = measured_scaling(features, rows)
    assert scaling.std.tolist() == [1, 1]
    assert scaling.mean[1] == 0
    torch.testing.assert_close(scaling.apply(torch.from_numpy(rows)), torch.zeros(7, 2))
    assert scaling.apply(torch.tensor([[1.1, 5.0]]))[0, 1] == 5
