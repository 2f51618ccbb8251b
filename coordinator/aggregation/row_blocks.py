"""Runs of rows of the shared tensors, and what a client's update says of them. Pure.

Rules that compare clients look at all clients' values of one coordinate, so they take the tensors
block by block: every client's share of a block, and never a whole model each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shared.arrays import Array
from shared.federation.initialisation import TensorSpecification
from shared.tensors.low_rank import Float64


@dataclass(frozen=True)
class RowBlock:
    """Rows ``start`` to before ``stop`` of one tensor; see :func:`num_columns`."""

    tensor: TensorSpecification
    start: int
    stop: int

    def of(self, array: Array) -> Float64:
        """These rows of a whole tensor ``array``, (rows, columns), as float64."""
        rows = array.reshape(-1, num_columns(self.tensor))[self.start : self.stop]
        return rows.astype(np.float64)

    def write(self, array: Array, rows: Float64) -> None:
        """Replaces these rows of a float32 tensor by ``rows`` (rows, columns), float64.

        What exceeds float32 becomes infinite.
        """
        with np.errstate(over="ignore"):
            array.reshape(-1, num_columns(self.tensor))[self.start : self.stop] = rows


def num_columns(tensor: TensorSpecification) -> int:
    """A matrix has rows of its columns; every other tensor's elements are rows of one each."""
    return tensor.shape[1] if len(tensor.shape) == 2 else 1


def num_rows(tensor: TensorSpecification) -> int:
    """Rows of :func:`num_columns` elements."""
    return tensor.num_elements // num_columns(tensor)


def rows_at_a_time(tensor: TensorSpecification, num_updates: int, block_bytes: int) -> int:
    """Rows whose float64 values of all updates fit into ``block_bytes``; one at least."""
    return max(1, min(num_rows(tensor), block_bytes // (8 * num_updates * num_columns(tensor))))


def row_blocks(tensor: TensorSpecification, length: int) -> Iterator[RowBlock]:
    """All rows of a tensor, ``length`` at a time."""
    for start in range(0, num_rows(tensor), length):
        yield RowBlock(tensor, start, min(start + length, num_rows(tensor)))


@dataclass(frozen=True, eq=False)
class WireRows:
    """A run of rows of one tensor's change as it was sent: not yet widened, nor multiplied.

    The change is ``scale``·values, or with ``right`` base_scale·base + valuesᵀ·right.
    """

    start: int
    stop: int
    values: Array
    """(rows, columns), or with ``right`` the left factors (rank, rows); any wire dtype."""
    right: Array | None = None
    """(rank, columns), float32."""
    scale: float = 1.0
    base_scale: float = 0.0

    def write_into(
        self,
        out: Float64,
        block: RowBlock,
        base_rows: Float64 | None,
        factor: float,
        offset: float,
    ) -> None:
        """Writes ``factor``·change − ``offset``·base of a block's rows, in float64.

        ``out`` is (rows, columns). Nothing overflows. ``base_rows`` may be None where no change
        has a base scale and ``offset`` is 0.
        """
        rows = slice(block.start - self.start, block.stop - self.start)
        if self.right is None:
            out[:] = self.values[rows]
            out *= factor * self.scale
        else:
            left = self.values[:, rows].astype(np.float64)
            np.matmul(left.T, self.right.astype(np.float64), out=out)
            out *= factor
        base_factor = factor * self.base_scale - offset
        if base_rows is not None and base_factor != 0.0:
            out += base_factor * base_rows
