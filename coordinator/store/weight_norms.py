"""How large the tensors of published weights are: read once for each version, then remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from weakref import WeakValueDictionary

from coordinator.errors import DamagedBlobError
from coordinator.store.blobs import BlobStore
from coordinator.store.tables import WeightsRow
from shared.tensors import codec
from shared.tensors.file_header import CodecError
from shared.tensors.norms import SquaredNorms

_KEPT = 16


class WeightNorms:
    """The norms of the versions asked for last, by the digest of their weights."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._norms: OrderedDict[str, Mapping[str, float]] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def of(self, blobs: BlobStore, weights: WeightsRow) -> Mapping[str, float]:
        """The Frobenius norm of every tensor by name, in float64.

        Raises:
            DamagedBlobError: bytes of the weights are missing or no safetensors file.
        """
        # All clients of a round ask at once, and one reading serves them.
        lock = self._locks.setdefault(weights.digest, asyncio.Lock())
        async with lock:
            if weights.digest not in self._norms:
                self._norms[weights.digest] = await _read(blobs, weights)
                if len(self._norms) > self._kept:
                    self._norms.popitem(last=False)
            self._norms.move_to_end(weights.digest)
            return self._norms[weights.digest]


async def _read(blobs: BlobStore, weights: WeightsRow) -> dict[str, float]:
    message = f"the stored weights of version {weights.version} are damaged"
    if weights.blob_id is None:
        raise DamagedBlobError(f"the stored weights of version {weights.version} are missing")
    reader = codec.StreamReader()
    squared = SquaredNorms()

    def add_piece(piece: bytes) -> None:
        for block in reader.feed(piece):
            codec.check_finite(block)
            squared.add(block)

    try:
        async for piece in blobs.read(weights.blob_id):
            await asyncio.to_thread(add_piece, piece)
        reader.finish()
    except CodecError as error:
        raise DamagedBlobError(message) from error
    return await asyncio.to_thread(squared.norms)
