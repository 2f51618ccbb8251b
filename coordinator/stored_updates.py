"""Recorded updates, read a few rows at a time: what rules that compare clients need.

Such a rule looks at all clients' values of one coordinate, so it cannot take update after update.
Blocks of rows keep memory bounded: every client's share of a block, and never a whole model each.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from coordinator import blobs
from coordinator.blobs import DamagedBlobError
from coordinator.database import Database
from shared import codec
from shared.arrays import Array, NamedArrays
from shared.codec import Header, TensorInfo
from shared.factored_encoding import BASE_SCALE, LEFT, RIGHT, SCALE
from shared.initialisation import TensorSpecification
from shared.low_rank import Float64
from shared.specification import ParameterSpecification

BLOCK_BYTES = 32 << 20
"""Of all clients' values in a block together, in float64."""


@dataclass(frozen=True)
class RowBlock:
    """Rows ``start`` to before ``stop`` of one tensor; see :func:`num_columns`."""

    tensor: TensorSpecification
    start: int
    stop: int

    def of(self, array: Array) -> Float64:
        """These rows of a whole tensor, as float64."""
        rows = array.reshape(-1, num_columns(self.tensor))[self.start : self.stop]
        return rows.astype(np.float64)

    def write(self, array: Array, rows: Float64) -> None:
        """Replaces these rows of a whole tensor; what exceeds float32 becomes infinite."""
        with np.errstate(over="ignore"):
            array.reshape(-1, num_columns(self.tensor))[self.start : self.stop] = rows


def num_columns(tensor: TensorSpecification) -> int:
    """A matrix has rows of its columns; every other tensor's elements are rows of one each."""
    return tensor.shape[1] if len(tensor.shape) == 2 else 1


def row_blocks(
    parameters: ParameterSpecification, num_updates: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[RowBlock]:
    """All rows of all tensors; a block has at least one row."""
    for tensor in parameters.tensors:
        num_rows = tensor.num_elements // num_columns(tensor)
        step = max(1, block_bytes // (8 * num_updates * num_columns(tensor)))
        for start in range(0, num_rows, step):
            yield RowBlock(tensor, start, min(start + step, num_rows))


@dataclass(frozen=True)
class StoredUpdate:
    """One recorded update; its bytes were compared with their digest when it was opened."""

    database: Database
    blob_id: int
    header: Header
    data_offset: int
    scales: dict[str, float]

    @classmethod
    async def open(cls, database: Database, blob_id: int, digest: str) -> Self:
        """Reads all bytes once for the digest, and keeps the header and the scalars.

        Raises:
            DamagedBlobError: they are not those that were recorded.
        """
        state = hashlib.sha256()
        start = bytearray()
        async for piece in blobs.read(database, blob_id):
            await asyncio.to_thread(state.update, piece)
            if len(start) < codec.MAX_HEADER_BYTES + 8:
                start += piece
        if f"sha256:{state.hexdigest()}" != digest:
            raise DamagedBlobError(f"stored blob {blob_id} is damaged")
        reader = codec.StreamReader()
        reader.feed_header_only(start)
        if reader.header is None:
            raise DamagedBlobError(f"stored blob {blob_id} is no update")
        update = cls(database, blob_id, reader.header, reader.data_offset, {})
        for info in reader.header.tensors:
            if info.name.endswith((BASE_SCALE, SCALE)):
                update.scales[info.name] = float((await update._elements(info, 0, 1))[0])
        return update

    @property
    def is_factored(self) -> bool:
        """Whether its change was sent in the factored encoding, whose norm intake cannot know."""
        return bool(self.scales)

    def base_scale(self, tensor: TensorSpecification) -> float:
        """The scale c of a change c·W + leftᵀ·right; 0 for a change that was sent whole."""
        return self.scales.get(tensor.name + BASE_SCALE, 0.0)

    async def rows(
        self,
        block: RowBlock,
        base_rows: Float64 | None,
        *,
        factor: float = 1.0,
        offset: float = 0.0,
    ) -> Float64:
        """Rows of ``factor``·change − ``offset``·base, in float64, where nothing overflows.

        ``base_rows`` may be None where no update is factored and ``offset`` is 0.
        """
        name = block.tensor.name
        tensors = {info.name: info for info in self.header.tensors}
        width = num_columns(block.tensor)
        if name in tensors:
            values = await self._elements(tensors[name], block.start * width, block.stop * width)
            rows: Float64 = values.astype(np.float64).reshape(-1, width)
            rows *= factor * self.scales.get(name + SCALE, 1.0)
        else:
            left, right = tensors[name + LEFT], tensors[name + RIGHT]
            rank, length = left.shape
            columns = [
                await self._elements(left, k * length + block.start, k * length + block.stop)
                for k in range(rank)
            ]
            factors = (await self._elements(right, 0, right.num_elements)).reshape(right.shape)
            rows = await asyncio.to_thread(_multiply, columns, factors, block.stop - block.start)
            rows *= factor
        base_factor = factor * self.base_scale(block.tensor) - offset
        if base_rows is not None and base_factor != 0.0:
            rows += base_factor * base_rows
        return rows

    async def _elements(self, info: TensorInfo, start: int, stop: int) -> Array:
        size = info.element_bytes
        origin = self.data_offset + info.start
        first, end = origin + start * size, origin + stop * size
        content = b"".join(
            [piece async for piece in blobs.read(self.database, self.blob_id, first, end)]
        )
        return info.elements(content)


def _multiply(left: list[Array], right: Array, num_rows: int) -> Float64:
    stacked = np.array(left, np.float64).reshape(len(left), num_rows)
    product: Float64 = stacked.T @ right.astype(np.float64)
    return product


async def change_norm(
    update: StoredUpdate, parameters: ParameterSpecification, base: NamedArrays | None
) -> float:
    """The Frobenius norm of an update's whole change, over all shared tensors."""
    squared = 0.0
    for block in row_blocks(parameters, 1):
        base_rows = None if base is None else block.of(base[block.tensor.name])
        rows = await update.rows(block, base_rows)
        squared += float((await asyncio.to_thread(np.square, rows)).sum())
    return math.sqrt(squared)
