"""SQLite reaches ``max_database_bytes``: refused by name, nothing half stored, and on it goes."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from coordinator.store.tables import BlobChunkRow, BlobRow, UpdateRow
from shared.federation.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.specifications import tiny_specification
from tests.support.statements import Values, before_statement
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

_QUOTA_BYTES = 16 << 20
_CLIENTS = [f"client-{number:02d}" for number in range(8)]


def _large_specification() -> FederationSpecification:
    """Updates of 3 MiB, of which the quota holds a few."""
    tiny = tiny_specification(minimum_updates=len(_CLIENTS)).model_dump(mode="json")
    tensor = tiny["parameters"]["tensors"][0]
    tensor["shape"] = [768, 1024]
    tensor["initialisation"][0]["rows"] = 768
    return FederationSpecification.model_validate(tiny)


async def _count(coordinator: RunningCoordinator, column: Any, *conditions: Any) -> int:
    async with coordinator.context.database.reading() as session:
        return (await session.scalars(select(func.count(column)).where(*conditions))).one()


def _check_no_room(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["type"] == "urn:hyperfl:problem:storage-full"


async def test_updates_beyond_the_quota_are_refused_and_taken_when_there_is_room(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    specification = _large_specification()
    async with running_coordinator(url, tmp_path, max_database_bytes=_QUOTA_BYTES) as coordinator:
        await coordinator.started(specification, *_CLIENTS)
        tasks = {name: await coordinator.task("tiny", name) for name in _CLIENTS}
        recorded = []
        for name, task in tasks.items():
            answer = await coordinator.put(task, update_bytes(specification, task))
            if answer.status_code == 201:
                recorded.append(name)
            else:
                _check_no_room(answer)
        assert 0 < len(recorded) < len(_CLIENTS)
        assert await _count(coordinator, UpdateRow.id) == len(recorded)
        assert await _count(coordinator, BlobRow.id, BlobRow.digest.is_(None)) == 0
        assert (await coordinator.http.get("/readyz")).status_code == 200
        credentials = coordinator.credentials
        clock = coordinator.clock
    assert (tmp_path / "hyperfl.db").stat().st_size <= _QUOTA_BYTES

    async with running_coordinator(url, tmp_path, clock) as coordinator:
        coordinator.credentials.update(credentials)
        for name, task in tasks.items():
            answer = await coordinator.put(task, update_bytes(specification, task))
            assert answer.status_code == (200 if name in recorded else 201), answer.text
        await coordinator.driver.step()
        [first, *_] = await coordinator.show("tiny/rounds")
        assert (first["phase"], first["updates_received"]) == ("committed", len(_CLIENTS))


async def test_a_driver_that_finds_no_room_makes_what_it_can(
    coordinator: RunningCoordinator,
) -> None:
    """The updates of a closed round are room, whatever else cannot be written."""
    specification = tiny_specification(minimum_updates=2, deadline_seconds=10, cohort_size=2)
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    assert (await coordinator.put(task, update_bytes(specification, task))).status_code == 201
    with_version_0 = await _count(coordinator, BlobChunkRow.blob_id) - 1
    coordinator.clock.advance(11)
    async with asyncio.TaskGroup() as aggregations:
        await coordinator.driver._advance_all(aggregations)
    assert await _count(coordinator, BlobChunkRow.blob_id) == with_version_0 + 1

    asked = list[bool]()

    def no_room(_: Values) -> None:
        asked.append(True)
        cause = sqlite3.OperationalError("database or disk is full")
        cause.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise OperationalError("UPDATE", {}, cause)

    database = coordinator.context.database
    with (
        before_statement(database, r"^SELECT .* FROM assignments .*lease_expires_at <=", no_room),
        before_statement(database, r"^SELECT count\(\*\) FILTER .* FROM assignments ", no_room),
    ):
        await coordinator.driver.step()
    assert len(asked) == 2
    assert await _count(coordinator, BlobChunkRow.blob_id) == with_version_0


async def test_what_could_not_be_discarded_is_discarded_later(
    coordinator: RunningCoordinator,
) -> None:
    database = coordinator.context.database
    async with database.writing() as session:
        blob = BlobRow(digest=None, size_bytes=0, created_at=coordinator.clock())
        session.add(blob)
    coordinator.context.blobs.undiscarded.add(blob.id)
    await coordinator.driver.step()
    assert coordinator.context.blobs.undiscarded == set()
    assert await _count(coordinator, BlobRow.id) == 0
