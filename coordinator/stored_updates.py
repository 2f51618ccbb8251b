"""Recorded updates, read a few rows at a time: what rules that compare clients need."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from coordinator import blobs
from coordinator.blobs import DamagedBlobError
from coordinator.database import Database
from coordinator.row_blocks import (
    RowBlock,
    WireRows,
    num_columns,
    num_rows,
    row_blocks,
    rows_at_a_time,
)
from shared import codec
from shared.arrays import NamedArrays
from shared.codec import TensorInfo
from shared.factored_encoding import BASE_SCALE, LEFT, RIGHT, SCALE
from shared.initialisation import TensorSpecification
from shared.low_rank import Float64
from shared.specification import ParameterSpecification

BLOCK_BYTES = 32 << 20
"""Of all clients' values in a block together, in float64."""
AHEAD_BYTES = 64 << 20
"""Of all clients' stored rows that are read at once, so that a chunk serves several blocks."""


@dataclass(frozen=True)
class StoredUpdate:
    """One recorded update; its bytes were compared with their digest when it was opened."""

    database: Database
    blob_id: int
    data_offset: int
    tensors: Mapping[str, TensorInfo]
    scales: Mapping[str, float]

    @classmethod
    async def open(cls, database: Database, blob_id: int, digest: str) -> Self:
        """Reads all bytes once for the digest, and keeps the tensors' places and the scalars.

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
        tensors = {info.name: info for info in reader.header.tensors}
        scalars = [info for info in tensors.values() if info.name.endswith((BASE_SCALE, SCALE))]
        contents = await blobs.read_ranges(
            database, blob_id, [_place(reader.data_offset, info, 0, 1) for info in scalars]
        )
        scales = {
            info.name: float(info.elements(content)[0])
            for info, content in zip(scalars, contents, strict=True)
        }
        return cls(database, blob_id, reader.data_offset, tensors, scales)

    @property
    def is_factored(self) -> bool:
        """Whether its change was sent in the factored encoding, whose norm intake cannot know."""
        return bool(self.scales)

    def base_scale(self, tensor: TensorSpecification) -> float:
        """The scale c of a change c·W + leftᵀ·right; 0 for a change that was sent whole."""
        return self.scales.get(tensor.name + BASE_SCALE, 0.0)

    def bytes_of_a_row(self, tensor: TensorSpecification) -> int:
        """Stored bytes of which another row of the tensor needs its own."""
        whole = self.tensors.get(tensor.name)
        if whole is not None:
            return num_columns(tensor) * whole.element_bytes
        left = self.tensors[tensor.name + LEFT]
        return left.shape[0] * left.element_bytes

    def bytes_of_all_rows(self, tensor: TensorSpecification) -> int:
        """Stored bytes that every row of the tensor needs: those of ``right``."""
        right = self.tensors.get(tensor.name + RIGHT)
        return 0 if right is None else right.end - right.start

    async def read(self, tensor: TensorSpecification, start: int, stop: int) -> WireRows:
        """Rows ``start`` to before ``stop`` of the tensor's change, as they are stored.

        Raises:
            DamagedBlobError: bytes are missing.
        """
        whole = self.tensors.get(tensor.name)
        if whole is not None:
            width = num_columns(tensor)
            place = _place(self.data_offset, whole, start * width, stop * width)
            (content,) = await blobs.read_ranges(self.database, self.blob_id, [place])
            values = whole.elements(content).reshape(-1, width)
            return WireRows(start, stop, values, scale=self.scales.get(tensor.name + SCALE, 1.0))
        left, right = self.tensors[tensor.name + LEFT], self.tensors[tensor.name + RIGHT]
        rank, length = left.shape
        places = [
            _place(self.data_offset, left, k * length + start, k * length + stop)
            for k in range(rank)
        ]
        places.append(_place(self.data_offset, right, 0, right.num_elements))
        *components, content = await blobs.read_ranges(self.database, self.blob_id, places)
        return WireRows(
            start,
            stop,
            left.elements(b"".join(components)).reshape(rank, stop - start),
            right.elements(content).reshape(right.shape),
            base_scale=self.base_scale(tensor),
        )


def _place(data_offset: int, info: TensorInfo, first: int, last: int) -> tuple[int, int]:
    """Where elements ``first`` to before ``last`` of a tensor lie in its file."""
    origin = data_offset + info.start
    return origin + first * info.element_bytes, origin + last * info.element_bytes


async def stacks(
    updates: Sequence[tuple[StoredUpdate, float]],
    parameters: ParameterSpecification,
    base: NamedArrays | None,
    offsets: Mapping[str, float],
) -> AsyncIterator[tuple[RowBlock, Float64]]:
    """Every block of rows with all clients' changes in it, (clients, rows, columns).

    An update comes with the factor that clips it, and ``offsets``·base is taken off every change.
    ``base`` may be None where no update is factored. A stack is written over by the next.

    Raises:
        DamagedBlobError: bytes of an update are missing.
    """
    for tensor in parameters.tensors:
        length = rows_at_a_time(tensor, len(updates), BLOCK_BYTES)
        ahead = _rows_ahead(tensor, [update for update, _ in updates])
        offset = offsets.get(tensor.name, 0.0)
        buffer = np.empty((len(updates), length, num_columns(tensor)))
        at_hand: dict[int, WireRows] = {}
        for block in row_blocks(tensor, length):
            stack = buffer[:, : block.stop - block.start]
            base_rows = None
            if base is not None:
                base_rows = await asyncio.to_thread(block.of, base[tensor.name])
            for index, (update, factor) in enumerate(updates):
                rows = at_hand.pop(index, None)
                if rows is None or rows.stop < block.stop:
                    rows = None  # freed before more is read
                    stop = min(num_rows(tensor), max(block.stop, block.start + ahead))
                    rows = await update.read(tensor, block.start, stop)
                if ahead >= length:
                    at_hand[index] = rows
                await asyncio.to_thread(
                    rows.write_into, stack[index], block, base_rows, factor, offset
                )
            yield block, stack


def _rows_ahead(tensor: TensorSpecification, updates: Sequence[StoredUpdate]) -> int:
    """Rows of all updates together whose stored bytes may be in memory at once; 0 for none."""
    left = AHEAD_BYTES - sum(update.bytes_of_all_rows(tensor) for update in updates)
    one_row = sum(update.bytes_of_a_row(tensor) for update in updates)
    if left <= 0:
        return 0
    return left // one_row if one_row else num_rows(tensor)


async def change_norm(
    update: StoredUpdate, parameters: ParameterSpecification, base: NamedArrays | None
) -> float:
    """The Frobenius norm of an update's whole change, over all shared tensors.

    Raises:
        DamagedBlobError: bytes of the update are missing.
    """
    squared = 0.0
    async for _, stack in stacks([(update, 1.0)], parameters, base, {}):
        squared += await asyncio.to_thread(_sum_of_squares, stack)
    return math.sqrt(squared)


def _sum_of_squares(values: Float64) -> float:
    return float(np.square(values, out=values).sum())
