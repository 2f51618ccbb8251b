"""Bytes in chunk rows: written as they come, read as they go, never whole in memory.

A blob belongs to nobody until it is sealed with its digest, in the transaction that refers to it.
Whatever a crash leaves unsealed is swept away later. Each owner has its own blob, so that deleting
needs no count of references.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.database import Database
from coordinator.tables import BlobChunkRow, BlobRow

CHUNK_BYTES = 1 << 20


class BlobWriter:
    """Takes bytes in pieces of any length and keeps at most one chunk of them in memory.

    Use :meth:`open`, then :meth:`append`, then :meth:`flush`, then :meth:`seal` within the
    transaction that refers to the blob; or :meth:`discard`.
    """

    def __init__(self, database: Database, blob_id: int) -> None:
        self.blob_id = blob_id
        self.size_bytes = 0
        self._database = database
        self._buffer = bytearray()
        self._num_chunks = 0

    @classmethod
    async def open(cls, database: Database, now: datetime) -> BlobWriter:
        """Starts a blob."""
        async with database.writing() as session:
            blob = BlobRow(digest=None, size_bytes=0, created_at=now)
            session.add(blob)
            await session.flush()
            return cls(database, blob.id)

    async def append(self, piece: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes; writes every chunk that is full."""
        self._buffer += piece
        while len(self._buffer) >= CHUNK_BYTES:
            await self._write(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    async def flush(self) -> None:
        """Writes what is left. Nothing may be appended after it."""
        if self._buffer:
            await self._write(bytes(self._buffer))
            self._buffer.clear()

    async def _write(self, chunk: bytes) -> None:
        async with self._database.writing() as session:
            await session.execute(
                insert(BlobChunkRow).values(
                    blob_id=self.blob_id, position=self._num_chunks, data=chunk
                )
            )
        self._num_chunks += 1
        self.size_bytes += len(chunk)

    async def seal(self, session: AsyncSession, digest: str) -> None:
        """Gives the blob its digest and size; it stays if ``session`` commits."""
        await session.execute(
            update(BlobRow)
            .where(BlobRow.id == self.blob_id)
            .values(digest=digest, size_bytes=self.size_bytes)
        )

    @classmethod
    async def write(cls, database: Database, now: datetime, content: bytes) -> BlobWriter:
        """A blob of bytes that are whole in memory, not sealed yet."""
        writer = await cls.open(database, now)
        view = memoryview(content)
        for start in range(0, len(content), CHUNK_BYTES):
            await writer.append(view[start : start + CHUNK_BYTES])
        await writer.flush()
        return writer

    async def discard(self) -> None:
        """Removes what was written."""
        async with self._database.writing() as session:
            await delete_blobs(session, [self.blob_id])


async def size_bytes(session: AsyncSession, blob_id: int) -> int:
    """Length of a sealed blob."""
    return (await session.scalars(select(BlobRow.size_bytes).where(BlobRow.id == blob_id))).one()


async def read(
    database: Database, blob_id: int, start: int = 0, end: int | None = None
) -> AsyncIterator[bytes]:
    """The bytes from ``start`` to before ``end``, chunk by chunk, each in a session of its own."""
    position = start // CHUNK_BYTES
    offset = start % CHUNK_BYTES
    remaining = None if end is None else end - start
    while remaining is None or remaining > 0:
        async with database.reading() as session:
            chunk = await session.scalar(
                select(BlobChunkRow.data).where(
                    BlobChunkRow.blob_id == blob_id, BlobChunkRow.position == position
                )
            )
        if chunk is None:
            return
        piece = chunk[offset:] if remaining is None else chunk[offset : offset + remaining]
        if remaining is not None:
            remaining -= len(piece)
        yield piece
        position, offset = position + 1, 0


async def read_whole(database: Database, blob_id: int) -> bytearray:
    """All bytes of a blob, for what is known to be small or is needed whole."""
    content = bytearray()
    async for piece in read(database, blob_id):
        content += piece
    return content


async def delete_blobs(session: AsyncSession, blob_ids: list[int]) -> None:
    """Removes blobs that nothing refers to any more."""
    await session.execute(delete(BlobChunkRow).where(BlobChunkRow.blob_id.in_(blob_ids)))
    await session.execute(delete(BlobRow).where(BlobRow.id.in_(blob_ids)))


async def delete_unsealed(session: AsyncSession, created_before: datetime) -> int:
    """Removes what crashes and broken uploads left behind; returns how many blobs."""
    leftover = (
        await session.scalars(
            select(BlobRow.id).where(BlobRow.digest.is_(None), BlobRow.created_at < created_before)
        )
    ).all()
    await delete_blobs(session, list(leftover))
    return len(leftover)


async def stored_bytes(session: AsyncSession) -> int:
    """Bytes of all chunks, sealed or not."""
    return (
        await session.scalar(select(func.coalesce(func.sum(func.length(BlobChunkRow.data)), 0)))
        or 0
    )
