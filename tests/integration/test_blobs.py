"""Bytes in chunk rows, on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from coordinator.store import blobs
from coordinator.store.blobs import CHUNK_BYTES, BlobStore, BlobWriter
from coordinator.store.tables import BlobChunkRow, BlobRow
from shared.arrays import digest_bytes
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import stored_bytes
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def some_bytes(length: int) -> bytes:
    return np.random.default_rng(length).bytes(length)


async def sealed(blob_store: BlobStore, content: bytes) -> int:
    writer = await blob_store.write(NOW, [content])
    return await seal(blob_store, writer, content)


async def seal(blob_store: BlobStore, writer: BlobWriter, content: bytes) -> int:
    async with blob_store.database.writing() as session:
        return await writer.seal(session)


async def blob_ids(blob_store: BlobStore, *, are_sealed: bool) -> list[int]:
    condition = BlobRow.digest.is_not(None) if are_sealed else BlobRow.digest.is_(None)
    async with blob_store.database.reading() as session:
        return list(await session.scalars(select(BlobRow.id).where(condition).order_by(BlobRow.id)))


async def chunk_lengths(blob_store: BlobStore, blob_id: int) -> list[int]:
    async with blob_store.database.reading() as session:
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
async def test_bytes_come_back_as_they_were(blob_store: BlobStore, length: int) -> None:
    content = some_bytes(length)
    blob_id = await sealed(blob_store, content)
    assert await blob_store.read_whole(blob_id) == content
    lengths = await chunk_lengths(blob_store, blob_id)
    assert all(size == CHUNK_BYTES for size in lengths[:-1])
    async with blob_store.database.reading() as session:
        row = await session.get_one(BlobRow, blob_id)
        assert await blobs.size_bytes(session, blob_id) == length
    assert (row.digest, row.created_at) == (digest_bytes(content), NOW)


async def test_pieces_of_any_length_are_stored_in_whole_chunks(blob_store: BlobStore) -> None:
    content = some_bytes(3 * CHUNK_BYTES + 5)
    writer = blob_store.writer(NOW)
    start = 0
    for length in (1, 3, CHUNK_BYTES, 2 * CHUNK_BYTES, 1):
        await writer.append(memoryview(content)[start : start + length])
        start += length
        assert writer.size_bytes == start
    blob_id = await seal(blob_store, writer, content)
    assert await chunk_lengths(blob_store, blob_id) == [CHUNK_BYTES] * 3 + [5]
    assert await blob_store.read_whole(blob_id) == content


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
    blob_store: BlobStore, start: int, end: int | None
) -> None:
    content = some_bytes(2 * CHUNK_BYTES + 7)
    blob_id = await sealed(blob_store, content)
    pieces = [piece async for piece in blob_store.read(blob_id, start, end)]
    assert b"".join(pieces) == content[start:end]


async def test_blobs_that_are_written_at_once_stay_apart(blob_store: BlobStore) -> None:
    contents = [some_bytes(CHUNK_BYTES + extra) for extra in (1, 2)]
    writers = [blob_store.writer(NOW) for _ in contents]
    for start in range(0, CHUNK_BYTES + 2, CHUNK_BYTES // 2):
        for writer, content in zip(writers, contents, strict=True):
            await writer.append(content[start : start + CHUNK_BYTES // 2])
    for writer, content in zip(writers, contents, strict=True):
        blob_id = await seal(blob_store, writer, content)
        assert await blob_store.read_whole(blob_id) == content


@pytest.mark.parametrize("length", [7, 2 * CHUNK_BYTES + 7])
async def test_a_seal_counts_only_if_its_transaction_commits(
    blob_store: BlobStore, length: int
) -> None:
    content = some_bytes(length)
    writer = await blob_store.write(NOW, [content])

    async def seal_and_fail() -> None:
        async with blob_store.database.writing() as session:
            await writer.seal(session)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await seal_and_fail()
    assert await blob_ids(blob_store, are_sealed=True) == []
    async with blob_store.database.writing() as session:
        await blobs.delete_unsealed(session, NOW + timedelta(seconds=1))
    assert await stored_bytes(blob_store.database) == 0


async def test_a_blob_is_sealed_in_full_or_not_at_all(blob_store: BlobStore) -> None:
    content = some_bytes(2 * CHUNK_BYTES + 7)
    writer = await blob_store.write(NOW, [content])
    [blob_id] = await blob_ids(blob_store, are_sealed=False)
    async with blob_store.database.reading() as session:
        assert await blobs.size_bytes(session, blob_id) == 0
    assert await seal(blob_store, writer, content) == blob_id
    assert await blob_store.read_whole(blob_id) == content


@pytest.mark.parametrize("length", [7, 2 * CHUNK_BYTES + 7])
async def test_a_discarded_blob_leaves_nothing(blob_store: BlobStore, length: int) -> None:
    kept = await sealed(blob_store, b"kept")
    writer = await blob_store.write(NOW, [some_bytes(length)])
    await writer.discard()
    assert await blob_ids(blob_store, are_sealed=False) == []
    assert await stored_bytes(blob_store.database) == len(b"kept")
    assert await blob_store.read_whole(kept) == b"kept"


async def test_only_old_unsealed_blobs_are_swept(blob_store: BlobStore) -> None:
    content = some_bytes(CHUNK_BYTES + 1)
    finished = await sealed(blob_store, content)
    await blob_store.write(NOW, [content])
    [young] = await blob_ids(blob_store, are_sealed=False)
    await blob_store.write(NOW - timedelta(hours=1), [content])
    async with blob_store.database.writing() as session:
        assert await blobs.delete_unsealed(session, NOW) == 1
        assert await blobs.delete_unsealed(session, NOW) == 0
    assert await blob_ids(blob_store, are_sealed=False) == [young]
    assert await chunk_lengths(blob_store, young) == [CHUNK_BYTES]
    assert await blob_store.read_whole(finished) == content


async def test_a_blob_that_something_refers_to_cannot_be_deleted(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    blob_store = coordinator.context.blobs

    async def delete_everything() -> None:
        async with blob_store.database.writing() as session:
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
    blob_store = coordinator.context.blobs
    async with blob_store.database.reading() as session:
        rows = list(await session.scalars(select(BlobRow)))
    assert len(rows) >= 3  # two versions and an update
    for row in rows:
        content = await blob_store.read_whole(row.id)
        assert row.digest == digest_bytes(content)
        assert row.size_bytes == len(content)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_sends_bytes_as_they_are(blob_store: BlobStore) -> None:
    async with blob_store.database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        cursor = raw.driver_connection.cursor()
        await cursor.execute("SELECT decode('00ff', 'hex')")
        assert bytes(cursor.pgresult.get_value(0, 0)) == b"\x00\xff"
