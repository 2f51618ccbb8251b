"""Bytes in chunk rows: written as they come, read as they go, never whole in memory.

A blob belongs to nobody until it is sealed, in the transaction that refers to it.
Whatever a crash leaves unsealed is swept away later. Each owner has its own blob, so that deleting
needs no count of references.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import structlog
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.database.transactions import Database
from coordinator.errors import BodyLost, DamagedBlobError
from coordinator.store.tables import BlobChunkRow, BlobRow
from shared.arrays import Digest, digest_bytes
from shared.crash_points import reached

CHUNK_BYTES = 1 << 20
"""Of a stored chunk. It is no setting: a database keeps the size that it was begun with."""

_log = structlog.get_logger()


class BlobStore:
    """The blobs of one database.

    Attributes:
        chunk_bytes: length of a stored chunk.
        undiscarded: unsealed blobs that nobody writes any longer, and whose removal failed.
    """

    def __init__(self, database: Database, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.database = database
        self.chunk_bytes = chunk_bytes
        self.undiscarded: set[int] = set()

    def writer(self, now: datetime) -> BlobWriter:
        """A new blob, of which nothing is written yet."""
        return BlobWriter(self, now)

    async def write(self, now: datetime, pieces: Iterable[bytes | memoryview]) -> BlobWriter:
        """A blob of bytes that are at hand, not sealed yet."""
        writer = self.writer(now)
        try:
            for piece in pieces:
                await writer.append(piece)
        except BaseException:
            await asyncio.shield(writer.discard())
            raise
        return writer

    async def read(
        self, blob_id: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes from ``start`` to before ``end``, a chunk and a session at a time."""
        position = start // self.chunk_bytes
        offset = start % self.chunk_bytes
        remaining = None if end is None else end - start
        while remaining is None or remaining > 0:
            chunk = await self._find_chunk(blob_id, position)
            if chunk is None:
                return
            piece = chunk[offset:] if remaining is None else chunk[offset : offset + remaining]
            if remaining is not None:
                remaining -= len(piece)
            yield piece
            position, offset = position + 1, 0

    async def read_ranges(self, blob_id: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of several ranges ``(start, end)``; neighbours in one chunk fetch it once.

        Raises:
            DamagedBlobError: bytes are missing.
        """
        found = []
        position, chunk = -1, b""
        for start, end in ranges:
            pieces = []
            while start < end:
                if start // self.chunk_bytes != position:
                    position = start // self.chunk_bytes
                    chunk = await self._find_chunk(blob_id, position) or b""
                offset = start % self.chunk_bytes
                piece = chunk[offset : offset + end - start]
                if not piece:
                    raise DamagedBlobError(f"stored blob {blob_id} has no byte {start}")
                pieces.append(piece)
                start += len(piece)  # noqa: PLW2901 - what is left of the range
            found.append(b"".join(pieces))
        return found

    async def read_whole(self, blob_id: int) -> bytearray:
        """All bytes of a sealed blob, for what is known to be small or is needed whole.

        Raises:
            DamagedBlobError: they are not what was sealed.
        """
        # A small blob is asked for once: each session costs more than what it reads.
        async with self.database.reading() as session:
            found = await session.execute(
                select(BlobRow.digest, BlobRow.size_bytes, BlobChunkRow.data)
                .join(BlobChunkRow, BlobChunkRow.blob_id == BlobRow.id, isouter=True)
                .where(BlobRow.id == blob_id)
                .order_by(BlobChunkRow.position)
                .limit(1)
            )
            row = found.one_or_none()
        digest, size, first = (None, 0, None) if row is None else row
        content = bytearray(size)  # at once: a buffer that grows is copied as it does
        position = len(first or b"")
        content[:position] = first or b""
        async for piece in self.read(blob_id, position, size):
            content[position : position + len(piece)] = piece
            position += len(piece)
        if await asyncio.to_thread(digest_bytes, content) != digest:
            raise DamagedBlobError(f"stored blob {blob_id} is damaged")
        return content

    async def _find_chunk(self, blob_id: int, position: int) -> bytes | None:
        async with self.database.reading() as session:
            return await session.scalar(
                select(BlobChunkRow.data).where(
                    BlobChunkRow.blob_id == blob_id, BlobChunkRow.position == position
                )
            )


class BlobWriter:
    """Takes bytes in pieces of any length and keeps at most one chunk of them in memory.

    Use :meth:`append`, then :meth:`seal` within the transaction that refers to the blob; or
    :meth:`discard`. What fits into one chunk touches the database only in :meth:`seal`.
    """

    def __init__(self, store: BlobStore, now: datetime) -> None:
        self.size_bytes = 0
        self._store = store
        self._now = now
        self._blob_id: int | None = None
        self._buffer = bytearray()
        self._num_chunks = 0
        self._digest = Digest()

    @property
    def digest(self) -> str:
        """Of the bytes so far."""
        return str(self._digest)

    async def append(self, piece: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes; writes every chunk that more bytes follow.

        Raises:
            BodyLost: what was written before has been swept away.
        """
        await asyncio.to_thread(self._digest.update, piece)
        self._buffer += piece
        self.size_bytes += len(piece)
        chunk_bytes = self._store.chunk_bytes
        while len(self._buffer) > chunk_bytes:
            chunk = bytes(self._buffer[:chunk_bytes])
            del self._buffer[:chunk_bytes]
            # Worthless until the blob is sealed, which is durable and keeps what came before.
            try:
                async with self._store.database.writing(durable=False) as session:
                    if self._blob_id is None:
                        self._blob_id = await self._insert_blob(session)
                    await self._insert_chunk(session, self._blob_id, self._num_chunks, chunk)
            except IntegrityError as error:
                raise _lost() from error
            self._num_chunks += 1
            reached("chunk-written")

    async def seal(self, session: AsyncSession) -> int:
        """Completes the blob and gives it its digest; it stays if ``session`` commits.

        Returns its key.

        Raises:
            BodyLost: what was written before has been swept away.
        """
        blob_id = await self._insert_blob(session) if self._blob_id is None else self._blob_id
        sealed = await session.scalar(
            update(BlobRow)
            .where(BlobRow.id == blob_id, BlobRow.digest.is_(None))
            .values(digest=self.digest, size_bytes=self.size_bytes)
            .returning(BlobRow.id)
        )
        if sealed is None:
            raise _lost()
        if self._buffer:
            await self._insert_chunk(session, blob_id, self._num_chunks, bytes(self._buffer))
        return blob_id

    async def _insert_blob(self, session: AsyncSession) -> int:
        blob = BlobRow(digest=None, size_bytes=0, created_at=self._now)
        session.add(blob)
        await session.flush()
        return blob.id

    @staticmethod
    async def _insert_chunk(
        session: AsyncSession, blob_id: int, position: int, chunk: bytes
    ) -> None:
        await session.execute(
            insert(BlobChunkRow).values(blob_id=blob_id, position=position, data=chunk)
        )

    async def discard(self) -> None:
        """Removes what was written, unless it was sealed; what cannot be removed is swept later.

        Whoever is interrupted while the sealing transaction commits does not know how it ends.
        """
        if self._blob_id is None:
            return
        try:
            async with self._store.database.writing(durable=False) as session:
                await delete_if_unsealed(session, [self._blob_id])
        except SQLAlchemyError as error:
            self._store.undiscarded.add(self._blob_id)
            _log.warning("unfinished blob not removed", why=type(error).__name__)


def _lost() -> BodyLost:
    return BodyLost("what was written of the bytes was removed meanwhile; send them again")


async def delete_if_unsealed(session: AsyncSession, blob_ids: Iterable[int]) -> None:
    """Deletes those of the blobs that are not complete, and leaves the others."""
    unsealed = await session.scalars(
        select(BlobRow.id)
        .where(BlobRow.id.in_(blob_ids), BlobRow.digest.is_(None))
        .order_by(BlobRow.id)
        .with_for_update()
    )
    await delete_blobs(session, unsealed.all())


async def size_bytes(session: AsyncSession, blob_id: int) -> int:
    """Length of a sealed blob."""
    return (await session.scalars(select(BlobRow.size_bytes).where(BlobRow.id == blob_id))).one()


async def lock(session: AsyncSession, blob_ids: Sequence[int]) -> Sequence[int]:
    """Those of the blobs that are still there and that no other transaction is removing."""
    query = select(BlobRow.id).where(BlobRow.id.in_(blob_ids)).order_by(BlobRow.id)
    return (await session.scalars(query.with_for_update(skip_locked=True))).all()


async def delete_blobs(session: AsyncSession, blob_ids: Sequence[int]) -> None:
    """Removes blobs that the caller has locked and that nothing refers to any longer."""
    await session.execute(delete(BlobChunkRow).where(BlobChunkRow.blob_id.in_(blob_ids)))
    await session.execute(delete(BlobRow).where(BlobRow.id.in_(blob_ids)))


async def delete_unsealed(session: AsyncSession, created_before: datetime) -> int:
    """Removes what crashes and broken uploads left behind; returns how many blobs.

    A blob that is being written or sealed just now is locked, and stays.
    """
    leftover = (
        await session.scalars(
            select(BlobRow.id)
            .where(BlobRow.digest.is_(None), BlobRow.created_at < created_before)
            .order_by(BlobRow.id)
            .with_for_update(skip_locked=True)
        )
    ).all()
    await delete_blobs(session, leftover)
    return len(leftover)
