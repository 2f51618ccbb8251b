"""The table by which clients tell each other their heads: a shared tensor, one row for each client.

A client's place in it is its number in the federation. As its change of the table it sends its own
row in its own place, less the whole table that it was given. The mean of such changes, whose
weights p sum to 1, leaves p_j·row_j in the place of each client j that took part, and nothing of
rounds before. The first value of a row is 1, so that what the mean has made of it is p_j.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shared.tensors.low_rank import Float64
from worker.methods.collaboration.statistics import ClassStatistics
from worker.methods.local_round.client import HEAD_PREFIX

SMALLEST_SHARE = 2.0**-14
"""Least p of a row that is read. A float32 of p times a value is as near to it as 2⁻²⁴; so a row is
read to a thousandth at least, and what rounding leaves in an empty place is no row."""

_WEIGHT, _BIAS = HEAD_PREFIX + "weight", HEAD_PREFIX + "bias"


@dataclass(frozen=True, eq=False)
class Rows:
    """What clients of the last round told, in float64. m of them, C classes, features of width d.

    Attributes:
        places: m places in the table, in order.
        variances: V (m,) under the extractor that they had been given, as ``means``.
        frequencies: of each class among a client's examples (m, C).
        means: h (m, C·d).
        heads: weight (m, C, d) and bias (m, C) of their heads after training, by name.
    """

    places: list[int]
    variances: Float64
    frequencies: Float64
    means: Float64
    heads: dict[str, Float64]


@dataclass(frozen=True)
class RowLayout:
    """Where the parts of a row lie: share, V, class frequencies, h, centroids, head.

    A class's centroid, under the extractor that the client has trained, is written times its
    frequency, as h is.
    """

    num_classes: int
    width: int

    @property
    def size(self) -> int:
        """Values of a row."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        vectors = self.num_classes * self.width
        return [1, 1, self.num_classes, vectors, vectors, vectors, self.num_classes]

    def write(
        self,
        given: ClassStatistics,
        trained: ClassStatistics,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """A client's row (size,), float64 on the CPU.

        Args:
            given: under the extractor that it was given.
            trained: under the one that it has trained.
            weight: its head's (C, d).
            bias: its head's (C,).
        """
        parts = (given.frequencies, given.means, trained.means, weight, bias)
        return torch.cat(
            [
                torch.tensor([1.0, given.variance], dtype=torch.float64),
                *(part.detach().cpu().double().reshape(-1) for part in parts),
            ]
        )

    def rows(self, table: torch.Tensor) -> Rows:
        """The rows of those that took part in the round that ``table`` (places, size) is of."""
        values = table.detach().cpu().double().numpy()
        places = np.flatnonzero(values[:, 0] >= SMALLEST_SHARE)
        read = values[places] / values[places, :1]
        _, variances, frequencies, means, _, weights, biases = self._split(read)
        shape = (len(places), self.num_classes, self.width)
        return Rows(
            places=[int(place) for place in places],
            variances=np.maximum(variances[:, 0], 0.0),
            frequencies=frequencies,
            means=means,
            heads={_WEIGHT: weights.reshape(shape), _BIAS: biases},
        )

    def centroids(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each class's mean feature (C, d) over all that took part, and whether it has one (C,).

        Both are float64 on the CPU; a class that hardly any example was of has none.
        """
        values = table.detach().cpu().double().numpy()
        present = values[values[:, 0] >= SMALLEST_SHARE]
        _, _, frequencies, _, sums, _, _ = self._split(present.sum(0, keepdims=True))
        is_known = frequencies[0] >= SMALLEST_SHARE
        sums = sums.reshape(self.num_classes, self.width)
        centroids = sums / np.where(is_known, frequencies[0], 1.0)[:, None]
        return torch.from_numpy(centroids), torch.from_numpy(is_known)

    def _split(self, values: Float64) -> list[Float64]:
        return np.split(values, np.cumsum(self._sizes)[:-1], axis=1)
