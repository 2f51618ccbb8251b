"""A recorded update, read a few rows at a time: what rules that compare clients need."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from coordinator.aggregation.row_blocks import (
    WireRows,
    num_columns,
)
from coordinator.errors import DamagedBlobError
from coordinator.store.blobs import BlobStore
from shared.arrays import Digest
from shared.federation.initialisation import TensorSpecification
from shared.tensors import codec
from shared.tensors.factored_encoding import BASE_SCALE, LEFT, RIGHT, SCALE
from shared.tensors.file_header import TensorInfo
from shared.tensors.norms import SquaredNorms


@dataclass(frozen=True)
class UpdateFile:
    """One recorded update; its bytes were compared with their digest when it was opened."""

    blobs: BlobStore
    blob_id: int
    data_offset: int
    tensors: Mapping[str, TensorInfo]
    scales: Mapping[str, float]
    squared_norms: SquaredNorms

    @classmethod
    async def open(cls, blobs: BlobStore, blob_id: int, digest: str) -> Self:
        """Reads all bytes once for digest and norms; keeps the tensors' places and the scalars.

        Raises:
            DamagedBlobError: they are not those that were recorded.
            CodecError: they are no update.
        """
        found = Digest()
        squared_norms = SquaredNorms()
        reader = codec.StreamReader()

        def add_piece(piece: bytes) -> None:
            found.update(piece)
            for block in reader.feed(piece):
                squared_norms.add(block)

        async for piece in blobs.read(blob_id):
            await asyncio.to_thread(add_piece, piece)
        if str(found) != digest:
            raise DamagedBlobError(f"stored blob {blob_id} is damaged")
        tensors = {info.name: info for info in reader.finish().tensors}
        scalars = [info for info in tensors.values() if info.name.endswith((BASE_SCALE, SCALE))]
        contents = await blobs.read_ranges(
            blob_id, [_place(reader.data_offset, info, 0, 1) for info in scalars]
        )
        scales = {
            info.name: float(info.elements(content)[0])
            for info, content in zip(scalars, contents, strict=True)
        }
        return cls(blobs, blob_id, reader.data_offset, tensors, scales, squared_norms)

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
            (content,) = await self.blobs.read_ranges(self.blob_id, [place])
            values = whole.elements(content).reshape(-1, width)
            return WireRows(start, stop, values, scale=self.scales.get(tensor.name + SCALE, 1.0))
        left, right = self.tensors[tensor.name + LEFT], self.tensors[tensor.name + RIGHT]
        rank, length = left.shape
        places = [
            _place(self.data_offset, left, k * length + start, k * length + stop)
            for k in range(rank)
        ]
        places.append(_place(self.data_offset, right, 0, right.num_elements))
        *components, content = await self.blobs.read_ranges(self.blob_id, places)
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
