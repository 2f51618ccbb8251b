"""The file of several versions' deltas: a header of its own, and their bytes as they are stored.

Nothing is decoded and nothing is held but headers, so that a file costs the same whatever its size.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from coordinator import blobs
from coordinator.blobs import DamagedBlobError
from coordinator.database import Database
from coordinator.store.federations import StoredDelta
from shared import codec
from shared.schema import DeltaChain
from shared.version_deltas import CHAIN_METADATA_KEY, join_tensors

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

    async def read(self, database: Database) -> AsyncIterator[bytes]:
        """The file, at most a stored chunk at a time."""
        yield self.header
        for blob_id, start, end in self.parts:
            async for piece in blobs.read(database, blob_id, start, end):
                yield piece


class DeltaChains:
    """Makes one chain's file at a time and keeps the last few: a new round's clients ask for one.

    Each delta's bytes are compared with their digest once. What happens to them later is seen by
    the worker, which compares the digest of its result.
    """

    def __init__(self) -> None:
        self._making = asyncio.Lock()
        self._files: OrderedDict[tuple[StoredDelta, ...], ChainFile] = OrderedDict()
        self._compared: OrderedDict[StoredDelta, None] = OrderedDict()

    async def file(self, database: Database, deltas: Sequence[StoredDelta]) -> ChainFile:
        """The file of the deltas that lead from one version to another, in order.

        Raises:
            DamagedBlobError: stored bytes are not those that were published.
        """
        key = tuple(deltas)
        async with self._making:
            if key not in self._files:
                self._files[key] = await self._make(database, deltas)
            self._files.move_to_end(key)
            while len(self._files) > _CHAINS_KEPT:
                self._files.popitem(last=False)
            return self._files[key]

    async def _make(self, database: Database, deltas: Sequence[StoredDelta]) -> ChainFile:
        headers: dict[int, codec.Header] = {}
        parts = []
        for delta in deltas:
            if delta not in self._compared:
                await self._compare(database, delta)
            data_offset, headers[delta.version] = await _read_header(database, delta)
            parts.append((delta.blob_id, data_offset, delta.size_bytes))
        chain = DeltaChain(since=deltas[0].version - 1, version=deltas[-1].version)
        header = await asyncio.to_thread(_join, headers, chain)
        num_tensors = sum(len(one.tensors) for one in headers.values())
        is_readable = (
            num_tensors <= codec.MAX_TENSORS
            and len(header) - codec.LENGTH_BYTES <= codec.MAX_HEADER_BYTES
        )
        return ChainFile(header, parts, is_readable)

    async def _compare(self, database: Database, delta: StoredDelta) -> None:
        state = hashlib.sha256()
        async for piece in blobs.read(database, delta.blob_id):
            await asyncio.to_thread(state.update, piece)
        if f"sha256:{state.hexdigest()}" != delta.digest:
            raise DamagedBlobError(f"the stored delta of version {delta.version} is damaged")
        self._compared[delta] = None
        if len(self._compared) > _DIGESTS_KEPT:
            self._compared.popitem(last=False)


async def _read_header(database: Database, delta: StoredDelta) -> tuple[int, codec.Header]:
    """Where the delta's data start, and what is said of them before."""
    end = min(delta.size_bytes, codec.MAX_HEADER_BYTES + codec.LENGTH_BYTES)
    (content,) = await blobs.read_ranges(database, delta.blob_id, [(0, end)])
    reader = codec.StreamReader()
    await asyncio.to_thread(reader.feed_header_only, content)
    if reader.header is None:
        raise DamagedBlobError(f"the stored delta of version {delta.version} has no header")
    return reader.data_offset, reader.header


def _join(headers: dict[int, codec.Header], chain: DeltaChain) -> bytes:
    metadata = {CHAIN_METADATA_KEY: chain.model_dump_json()}
    return codec.encode_header(join_tensors(headers), metadata)
