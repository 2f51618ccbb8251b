"""Rows of features as a model takes them: numbers standardised, categories one-hot.

A stored row has a value for each feature: a number in its own unit, or the place of a category
among the agreed ones, from 0; not a number where the value is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shared.federation.features import Feature

NO_CATEGORY = -1.0


def scale_rows(
    rows: torch.Tensor,
    source: torch.Tensor,
    category: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
) -> torch.Tensor:
    """A model's inputs (B, W) of raw rows (B, F), float32.

    A number becomes (x - mean) / std, and 0 where it is missing. A category becomes 1 in its own
    input and 0 in the others of its feature; all are 0 where it is missing.

    Args:
        rows: raw, not a number where a value is missing.
        source: int64, (W,), the feature of each input.
        category: float32, (W,), the place of each input's category; -1 of a number's.
        mean: float32, (F,).
        std: float32, (F,).
    """
    filled = torch.where(torch.isnan(rows), mean, rows)
    numbers = ((filled - mean) / std)[:, source]
    is_category = (rows[:, source] == category).to(rows.dtype)
    return torch.where(category >= 0, is_category, numbers)


class RowScaling:
    """A site's own preparation of its rows.

    Attributes:
        features: in the order of the rows' values.
        mean: float32, (F,), of the training rows that have a value; 0 of a category.
        std: float32, (F,), the population's; 1 of a category, and where all values are one.
        source: int64, (W,), see :func:`scale_rows`.
        category: float32, (W,), see :func:`scale_rows`.
    """

    def __init__(
        self, features: Sequence[Feature], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.features = tuple(features)
        self.mean = torch.tensor(mean, dtype=torch.float32)
        self.std = torch.tensor(std, dtype=torch.float32)
        inputs = [
            (place, float(category) if feature.categories is not None else NO_CATEGORY)
            for place, feature in enumerate(features)
            for category in range(feature.width)
        ]
        self.source = torch.tensor([place for place, _ in inputs], dtype=torch.int64)
        self.category = torch.tensor([category for _, category in inputs], dtype=torch.float32)

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (F,)."""
        return self.mean, self.std

    def apply(self, stored: torch.Tensor) -> torch.Tensor:
        """float32 (B, W) of float32 rows (B, F), on their device."""
        constants = (self.source, self.category, self.mean, self.std)
        return scale_rows(stored, *(one.to(stored.device) for one in constants))


def measured_scaling(features: Sequence[Feature], rows: npt.NDArray[np.float32]) -> RowScaling:
    """The scaling of training rows (N, F).

    A feature without any value has mean 0; one whose values are all equal has std 1.
    """
    means, stds = [], []
    for feature, column in zip(features, rows.T, strict=True):
        values = column[~np.isnan(column)].astype(np.float64)
        mean, std = 0.0, 1.0
        if feature.categories is None and len(values):
            mean = float(values.mean())
            if np.float32(values.std()) > 0 and values.min() < values.max():
                std = float(values.std())
        means.append(mean)
        stds.append(std)
    return RowScaling(features, means, stds)
