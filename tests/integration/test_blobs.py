"""Bytes in chunk rows, on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from coordinator import blobs
from coordinator.blobs import CHUNK_BYTES, BlobWriter
from coordinator.database import Database
from coordinator.tables import BlobChunkRow, BlobRow
from shared.arrays import digest_bytes
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def some_bytes(length: int) -> bytes:
    return np.random.default_rng(length).bytes(length)


async def sealed(database: Database, content: bytes) -> int:
    writer = await BlobWriter.write(database, NOW, [content])
    return await seal(database, writer, content)


async def seal(database: Database, writer: BlobWriter, content: bytes) -> int:
    async with database.writing() as session:
        return await writer.seal(session)


async def blob_ids(database: Database, *, are_sealed: bool) -> list[int]:
    condition = BlobRow.digest.is_not(None) if are_sealed else BlobRow.digest.is_(None)
    async with database.reading() as session:
        return list(await session.scalars(select(BlobRow.id).where(condition).order_by(BlobRow.id)))


async def chunk_lengths(database: Database, blob_id: int) -> list[int]:
    async with database.reading() as session:
        lengths = await session.scalars(
            select(func.length(BlobChunkRow.data))
            .where(BlobChunkRow.blob_id == blob_id)
            .order_by(BlobChunkRow.position)
        )
        return list(lengths)


@pytest.mark.parametrize(
    "length",
    [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + CHUNK_BYTES // 2],
)
async def test_bytes_come_back_as_they_were(database: Database, length: int) -> None:
    content = some_bytes(length)
    blob_id = await sealed(database, content)
    assert await blobs.read_whole(database, blob_id) == content
    lengths = await chunk_lengths(database, blob_id)
    assert all(size == CHUNK_BYTES for size in lengths[:-1])
    async with database.reading() as session:
        row = await session.get_one(BlobRow, blob_id)
        assert await blobs.size_bytes(session, blob_id) == length
    assert (row.digest, row.created_at) == (digest_bytes(content), NOW)


async def test_pieces_of_any_length_are_stored_in_whole_chunks(database: Database) -> None:
    content = some_bytes(3 * CHUNK_BYTES + 5)
    writer = BlobWriter(database, NOW)
    start = 0
    for length in (1, 3, CHUNK_BYTES, 2 * CHUNK_BYTES, 1):
        await writer.append(memoryview(content)[start : start + length])
        start += length
        assert writer.size_bytes == start
    blob_id = await seal(database, writer, content)
    assert await chunk_lengths(database, blob_id) == [CHUNK_BYTES] * 3 + [5]
    assert await blobs.read_whole(database, blob_id) == content


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 1),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (5, 2 * CHUNK_BYTES + 3),
        (2 * CHUNK_BYTES + 6, 2 * CHUNK_BYTES + 7),
        (2 * CHUNK_BYTES, None),
        (0, None),
        (3, 3),
    ],
)
async def test_a_range_is_read_across_chunks(
    database: Database, start: int, end: int | None
) -> None:
    content = some_bytes(2 * CHUNK_BYTES + 7)
    blob_id = await sealed(database, content)
    pieces = [piece async for piece in blobs.read(database, blob_id, start, end)]
    assert b"".join(pieces) == content[start:end]


async def test_blobs_that_are_written_at_once_stay_apart(database: Database) -> None:
    contents = [some_bytes(CHUNK_BYTES + extra) for extra in (1, 2)]
    writers = [BlobWriter(database, NOW) for _ in contents]
    for start in range(0, CHUNK_BYTES + 2, CHUNK_BYTES // 2):
        for writer, content in zip(writers, contents, strict=True):
            await writer.append(content[start : start + CHUNK_BYTES // 2])
    for writer, content in zip(writers, contents, strict=True):
        blob_id = await seal(database, writer, content)
        assert await blobs.read_whole(database, blob_id) == content


@pytest.mark.parametrize("length", [7, 2 * CHUNK_BYTES + 7])
async def test_a_seal_counts_only_if_its_transaction_commits(
    database: Database, length: int
) -> None:
    content = some_bytes(length)
    writer = await BlobWriter.write(database, NOW, [content])

    async def seal_and_fail() -> None:
        async with database.writing() as session:
            await writer.seal(session)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await seal_and_fail()
    assert await blob_ids(database, are_sealed=True) == []
    async with database.writing() as session:
        await blobs.delete_unsealed(session, NOW + timedelta(seconds=1))
        assert await blobs.stored_bytes(session) == 0


async def test_a_blob_is_sealed_in_full_or_not_at_all(database: Database) -> None:
    content = some_bytes(2 * CHUNK_BYTES + 7)
    writer = await BlobWriter.write(database, NOW, [content])
    [blob_id] = await blob_ids(database, are_sealed=False)
    async with database.reading() as session:
        assert await blobs.size_bytes(session, blob_id) == 0
    assert await seal(database, writer, content) == blob_id
    assert await blobs.read_whole(database, blob_id) == content


@pytest.mark.parametrize("length", [7, 2 * CHUNK_BYTES + 7])
async def test_a_discarded_blob_leaves_nothing(database: Database, length: int) -> None:
    kept = await sealed(database, b"kept")
    writer = await BlobWriter.write(database, NOW, [some_bytes(length)])
    await writer.discard()
    assert await blob_ids(database, are_sealed=False) == []
    async with database.reading() as session:
        assert await blobs.stored_bytes(session) == len(b"kept")
    assert await blobs.read_whole(database, kept) == b"kept"


async def test_only_old_unsealed_blobs_are_swept(database: Database) -> None:
    content = some_bytes(CHUNK_BYTES + 1)
    finished = await sealed(database, content)
    await BlobWriter.write(database, NOW, [content])
    [young] = await blob_ids(database, are_sealed=False)
    await BlobWriter.write(database, NOW - timedelta(hours=1), [content])
    async with database.writing() as session:
        assert await blobs.delete_unsealed(session, NOW) == 1
        assert await blobs.delete_unsealed(session, NOW) == 0
    assert await blob_ids(database, are_sealed=False) == [young]
    assert await chunk_lengths(database, young) == [CHUNK_BYTES]
    assert await blobs.read_whole(database, finished) == content


async def test_a_blob_that_something_refers_to_cannot_be_deleted(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    database = coordinator.context.database

    async def delete_everything() -> None:
        async with database.writing() as session:
            await blobs.delete_blobs(session, list(await session.scalars(select(BlobRow.id))))

    with pytest.raises(IntegrityError):
        await delete_everything()
    response = await coordinator.http.get(
        "/v1/federations/tiny/weights/0", headers=coordinator.admin
    )
    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["dense", "factored"])
async def test_every_blob_of_a_federation_is_sealed_with_the_digest_of_its_bytes(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    specification = tiny_specification(encoding=encoding, rounds=3)
    await coordinator.started(specification, "a", "b")
    for client in ("a", "b", "a"):
        task = await coordinator.task("tiny", client)
        await coordinator.put(task, update_bytes(specification, task))
        await coordinator.driver.step()
    database = coordinator.context.database
    async with database.reading() as session:
        rows = list(await session.scalars(select(BlobRow)))
    assert len(rows) >= 3  # two versions and an update
    for row in rows:
        content = await blobs.read_whole(database, row.id)
        assert row.digest == digest_bytes(content)
        assert row.size_bytes == len(content)
