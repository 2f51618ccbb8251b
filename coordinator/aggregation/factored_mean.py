"""The weighted mean of factored updates, and the delta that is published for it.

A round's mean change of a matrix, (Σ pᵢcᵢ)·W + Σ pᵢ·Lᵢᵀ·Rᵢ, is gathered in one matrix of W's size,
whatever the number of clients: factors are stacked and multiplied a batch at a time. What the
published delta leaves out of it is the next round's start (error feedback).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation.weighted_mean import refuse_overflow
from shared.arrays import Array, NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.tensors.factored_encoding import (
    Compression,
    Delta,
    encode_components,
    encode_whole,
    is_matrix,
)
from shared.tensors.low_rank import Components, FactoredDelta, Float32, Float64, rank_for
from shared.tensors.norms import norm_of

_BATCH_RANK = 32
"""Components multiplied at once: enough to keep a core busy, and 15 MB at 115,776 rows."""
_ROWS_AT_A_TIME = 8192


@dataclass(frozen=True, eq=False)
class PublishedDelta:
    """What leads to the next version, and what it leaves out.

    Attributes:
        wire: tensors of the factored encoding by their names in the file.
        residual: float32 of the tensor's shape, by tensor name.
    """

    wire: dict[str, Array]
    residual: dict[str, Array]


class FactoredMean:
    """Σ pᵢ·deltaᵢ, with pᵢ = nᵢ / Σ n, of updates that are added in a fixed order."""

    def __init__(
        self, parameters: ParameterSpecification, residual: NamedArrays, total_examples: int
    ) -> None:
        """Start from what the last published delta left out; ``residual`` is taken over.

        Raises:
            ValueError: there are no examples.
        """
        if total_examples <= 0:
            raise ValueError("no update was added")
        self._total_examples = total_examples
        self._matrices: dict[str, _MatrixMean] = {}
        self._wholes: dict[str, Float64] = {}
        for tensor in parameters.tensors:
            start = residual.get(tensor.name)
            if is_matrix(tensor):
                self._matrices[tensor.name] = _MatrixMean(
                    np.zeros(tensor.shape, np.float32) if start is None else start
                )
            else:
                self._wholes[tensor.name] = np.zeros(tensor.shape)
                if start is not None:
                    self._wholes[tensor.name] += start

    def add(self, num_examples: int, changes: Mapping[str, Delta]) -> None:
        """Adds one client's changes, weighted by its examples.

        ``changes`` has, by tensor name, float32 of the tensor's shape or float32 factors of it.
        """
        share = num_examples / self._total_examples
        for name, matrix in self._matrices.items():
            matrix.add(share, changes[name])
        for name in self._wholes:
            self._wholes[name] += share * np.asarray(changes[name], np.float64)

    def add_base(self, name: str, scale: float) -> None:
        """Adds ``scale``·W to the change of matrix ``name``."""
        self._matrices[name].add_base(scale)

    def add_rows(self, name: str, start: int, rows: Float64) -> None:
        """Adds to the change of tensor ``name`` a run of its rows, from ``start`` on.

        ``rows`` is (count, columns), float64; of a tensor that is no matrix each element is a row.
        """
        if name in self._matrices:
            self._matrices[name].add_rows(start, rows)
        else:
            self._wholes[name].reshape(-1)[start : start + len(rows)] += rows.reshape(-1)

    def publish(
        self, compression: Compression, largest_residual: float = math.inf
    ) -> PublishedDelta:
        """The delta to publish; ends this mean, whose memory becomes the residual's.

        A residual whose norm over all tensors exceeds ``largest_residual`` is scaled down to it:
        hostile clients could fill it for many rounds to come.

        Raises:
            NonFiniteError: a value exceeds float32.
        """
        published = PublishedDelta({}, {})
        with np.errstate(over="ignore", invalid="ignore"):  # refused by name below
            self._publish_into(published, compression)
        for name, array in (published.wire | published.residual).items():
            refuse_overflow(name, array)
        if not math.isinf(largest_residual):
            _scale_down(published.residual, largest_residual)
        return published

    def _publish_into(self, published: PublishedDelta, compression: Compression) -> None:
        for name, matrix in self._matrices.items():
            wire, residual = matrix.publish(name, compression)
            published.wire.update(wire)
            published.residual[name] = residual
        for name, whole in self._wholes.items():
            wire, left_out = encode_whole(name, whole, compression.wire_dtype)
            published.wire.update(wire)
            published.residual[name] = left_out.astype(np.float32)


def _scale_down(arrays: NamedArrays, largest_norm: float) -> None:
    norm = norm_of(arrays)
    if norm > largest_norm:
        for array in arrays.values():
            np.multiply(array, np.float32(largest_norm / norm), out=array)


class _MatrixMean:
    """scale·W + matrix, of one tensor."""

    def __init__(self, matrix: Float32) -> None:
        rows, columns = matrix.shape
        self._matrix = matrix
        self._scale = 0.0
        self._left = np.empty((_BATCH_RANK, rows), np.float32)
        self._right = np.empty((_BATCH_RANK, columns), np.float32)
        self._num_pending = 0

    def add(self, share: float, change: Delta) -> None:
        if isinstance(change, FactoredDelta):
            self._scale += share * change.scale
            for left, right in zip(change.left, change.right, strict=True):
                if self._num_pending == _BATCH_RANK:
                    self._multiply_pending()
                self._left[self._num_pending] = left
                np.multiply(right, np.float32(share), out=self._right[self._num_pending])
                self._num_pending += 1
        else:
            self._matrix += np.float32(share) * change

    def add_base(self, scale: float) -> None:
        self._scale += scale

    def add_rows(self, start: int, rows: Float64) -> None:
        with np.errstate(over="ignore"):  # publish refuses it by name
            self._matrix[start : start + len(rows)] += rows.astype(np.float32)

    def publish(self, name: str, compression: Compression) -> tuple[dict[str, Array], Float32]:
        self._multiply_pending()
        refuse_overflow(name, self._matrix)
        components = self._decompose(compression)
        wire, received = encode_components(name, self._scale, components, compression.wire_dtype)
        self._add_product(-received.left, received.right)
        return wire, self._matrix

    def _multiply_pending(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # publish refuses it by name
            self._add_product(self._left[: self._num_pending], self._right[: self._num_pending])
        self._num_pending = 0

    def _add_product(self, left: Float32, right: Float32) -> None:
        for start in range(0, len(self._matrix), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            self._matrix[rows] += left[:, rows].T @ right

    def _decompose(self, compression: Compression) -> Components:
        """The leading components, from the Gram matrix of the columns, which are the small side."""
        columns = self._matrix.shape[1]
        gram = np.zeros((columns, columns))
        for start in range(0, len(self._matrix), _ROWS_AT_A_TIME):
            block = self._matrix[start : start + _ROWS_AT_A_TIME].astype(np.float64)
            gram += block.T @ block
        eigenvalues, vectors = np.linalg.eigh(gram)
        singular_values = np.sqrt(np.maximum(eigenvalues[::-1], 0.0))
        rank = rank_for(singular_values, compression.tolerance, compression.max_rank)
        right = vectors[:, ::-1][:, :rank].T.astype(np.float32)
        left = np.empty((rank, len(self._matrix)), np.float32)
        for start in range(0, len(self._matrix), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            left[:, rows] = right @ self._matrix[rows].T
        return Components(left, right, singular_values[:rank])
