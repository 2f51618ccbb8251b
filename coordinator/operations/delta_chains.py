"""The file of several versions' deltas: a header of its own, and their bytes as they are stored.

Nothing is decoded and nothing is held but headers, so that a file costs the same whatever its size.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from coordinator.errors import DamagedBlobError
from coordinator.store.blobs import BlobStore
from coordinator.store.weights import StoredDelta
from shared.arrays import Digest
from shared.rest.schema import DeltaChain
from shared.tensors import codec, file_header
from shared.tensors.version_deltas import CHAIN_METADATA_KEY, join_tensors

_CHAINS_KEPT = 8
_DIGESTS_KEPT = 10_000


@dataclass(frozen=True)
class ChainFile:
    """A header, and the ranges ``(blob, start, end)`` of stored bytes that follow it."""

    header: bytes
    parts: Sequence[tuple[int, int, int]]
    is_readable: bool
    """Whether the header is no more than readers take."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return len(self.header) + sum(end - start for _, start, end in self.parts)

    async def read(self, blobs: BlobStore) -> AsyncIterator[bytes]:
        """The file, at most a stored chunk at a time."""
        yield self.header
        for blob_id, start, end in self.parts:
            async for piece in blobs.read(blob_id, start, end):
                yield piece


class DeltaChains:
    """Makes one chain's file at a time and keeps the last few: a new round's clients ask for one.

    Each delta's bytes are compared with their digest once. What happens to them later is seen by
    the worker, which compares the digest of its result.

    Args:
        kept: files at most.
        max_tensors: in a file that readers take.
    """

    def __init__(
        self, kept: int = _CHAINS_KEPT, max_tensors: int = file_header.MAX_TENSORS
    ) -> None:
        self._kept = kept
        self._max_tensors = max_tensors
        self._making = asyncio.Lock()
        self._files: OrderedDict[tuple[StoredDelta, ...], ChainFile] = OrderedDict()
        self._compared: OrderedDict[StoredDelta, None] = OrderedDict()

    async def file(self, blobs: BlobStore, deltas: Sequence[StoredDelta]) -> ChainFile:
        """The file of the deltas that lead from one version to another, in order.

        Raises:
            DamagedBlobError: stored bytes are not those that were published.
        """
        key = tuple(deltas)
        async with self._making:
            if key not in self._files:
                self._files[key] = await self._make(blobs, deltas)
            self._files.move_to_end(key)
            while len(self._files) > self._kept:
                self._files.popitem(last=False)
            return self._files[key]

    async def _make(self, blobs: BlobStore, deltas: Sequence[StoredDelta]) -> ChainFile:
        headers: dict[int, file_header.Header] = {}
        parts = []
        for delta in deltas:
            if delta not in self._compared:
                await self._compare(blobs, delta)
            data_offset, headers[delta.version] = await _read_header(blobs, delta)
            parts.append((delta.blob_id, data_offset, delta.size_bytes))
        chain = DeltaChain(since=deltas[0].version - 1, version=deltas[-1].version)
        header = await asyncio.to_thread(_join, headers, chain)
        num_tensors = sum(len(one.tensors) for one in headers.values())
        is_readable = (
            num_tensors <= self._max_tensors
            and len(header) - file_header.LENGTH_BYTES <= file_header.MAX_HEADER_BYTES
        )
        return ChainFile(header, parts, is_readable)

    async def _compare(self, blobs: BlobStore, delta: StoredDelta) -> None:
        found = Digest()
        async for piece in blobs.read(delta.blob_id):
            await asyncio.to_thread(found.update, piece)
        if str(found) != delta.digest:
            raise DamagedBlobError(f"the stored delta of version {delta.version} is damaged")
        self._compared[delta] = None
        if len(self._compared) > _DIGESTS_KEPT:
            self._compared.popitem(last=False)


async def _read_header(blobs: BlobStore, delta: StoredDelta) -> tuple[int, file_header.Header]:
    """Where the delta's data start, and what is said of them before."""
    end = min(delta.size_bytes, file_header.MAX_HEADER_BYTES + file_header.LENGTH_BYTES)
    (content,) = await blobs.read_ranges(delta.blob_id, [(0, end)])
    reader = codec.StreamReader()
    await asyncio.to_thread(reader.feed_header_only, content)
    if reader.header is None:
        raise DamagedBlobError(f"the stored delta of version {delta.version} has no header")
    return reader.data_offset, reader.header


def _join(headers: dict[int, file_header.Header], chain: DeltaChain) -> bytes:
    metadata = {CHAIN_METADATA_KEY: chain.model_dump_json()}
    return file_header.encode_header(join_tensors(headers), metadata)
