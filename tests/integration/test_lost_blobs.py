"""Uploads and aggregations whose written bytes are swept away, or that end in mid-commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from coordinator.aggregation.aggregate import AggregatedRound, aggregate
from coordinator.rounds.driver import Driver
from coordinator.store import blobs
from shared.tensors.codec import MEDIA_TYPE
from tests.support.coordinator import SMALL_CHUNK_BYTES, RunningCoordinator, small_chunks
from tests.support.crash_points import listening_to_crash_points
from tests.support.rounds import phases, unsealed_blobs
from tests.support.specifications import tiny_specification
from tests.support.statements import before_statement, failing
from tests.support.updates import update_bytes

pytestmark = [pytest.mark.integration, small_chunks]

_PIECE_BYTES = SMALL_CHUNK_BYTES
Task = dict[str, Any]


async def sweep_everything(coordinator: RunningCoordinator) -> int:
    """As a replica would to which a day has passed."""
    database, later = coordinator.context.database, coordinator.clock() + timedelta(days=1)
    async with database.writing() as session:
        return await blobs.delete_unsealed(session, later)


async def commit_round(coordinator: RunningCoordinator) -> list[str]:
    await coordinator.driver.step()
    return await phases(coordinator)


@pytest.mark.parametrize("left_over", [1, 2 * _PIECE_BYTES], ids=["at the seal", "before"])
async def test_an_update_whose_bytes_are_swept_meanwhile_is_asked_for_again(
    coordinator: RunningCoordinator, left_over: int
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(tiny_specification(), task)
    swept: list[int] = []

    async def in_pieces() -> AsyncIterator[bytes]:
        yield body[:-left_over]
        swept.append(await sweep_everything(coordinator))
        for start in range(len(body) - left_over, len(body), _PIECE_BYTES):
            yield body[start : start + _PIECE_BYTES]

    path = f"/v1/federations/tiny/rounds/{task['round_number']}/updates/a"
    headers = coordinator.credentials["a"] | {"Content-Type": MEDIA_TYPE}
    refused = await coordinator.http.put(
        path, params={"attempt": task["attempt"]}, content=in_pieces(), headers=headers
    )
    assert swept == [1]
    assert refused.status_code == 503, refused.text
    assert int(refused.headers["Retry-After"]) > 0
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 0
    assert (await coordinator.put(task, body)).status_code == 201
    assert await commit_round(coordinator) == ["committed", "open"]
    assert await unsealed_blobs(coordinator) == []


async def test_a_result_that_is_swept_meanwhile_is_computed_again(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    await coordinator.put(task, update_bytes(tiny_specification(), task))

    async def and_swept(*arguments: Any) -> AggregatedRound:
        result = await aggregate(*arguments)
        assert await sweep_everything(coordinator) == 1
        return result

    await Driver(coordinator.context, aggregate=and_swept).step()
    assert await phases(coordinator) == ["aggregating"]
    coordinator.clock.advance(coordinator.context.settings.aggregation_lease_seconds)
    assert await commit_round(coordinator) == ["committed", "open"]
    assert await unsealed_blobs(coordinator) == []


@contextmanager
def interrupted_commit(coordinator: RunningCoordinator, point: str) -> Iterator[None]:
    """Cancels the task that passes ``point``, as its transaction is committed.

    The commit itself goes on, as it does when a request is cancelled because its client hangs up.
    """
    passing: list[asyncio.Task[Any] | None] = []

    def note(name: str) -> None:
        if name == point:
            passing.append(asyncio.current_task())

    def on_commit(_connection: object) -> None:
        if passing:
            task = passing.pop()
            assert task is not None
            task.cancel()

    engine = coordinator.context.database.engine.sync_engine
    event.listen(engine, "commit", on_commit)
    with listening_to_crash_points(note):
        yield
    event.remove(engine, "commit", on_commit)


async def test_an_update_whose_client_hangs_up_in_mid_commit_keeps_its_bytes(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(tiny_specification(), task)
    with (
        interrupted_commit(coordinator, "update-recorded-uncommitted"),
        pytest.raises(asyncio.CancelledError),
    ):
        await asyncio.create_task(coordinator.put(task, body))
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 1
    assert (await coordinator.put(task, body)).status_code == 200
    assert await commit_round(coordinator) == ["committed", "open"]


async def test_a_coordinator_that_stops_in_mid_commit_keeps_the_new_version(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    await coordinator.put(task, update_bytes(tiny_specification(), task))
    with (
        interrupted_commit(coordinator, "weights-published-uncommitted"),
        pytest.raises(asyncio.CancelledError),
    ):
        await asyncio.create_task(coordinator.driver.step())
    assert await commit_round(coordinator) == ["committed", "open"]
    published = await coordinator.http.get(
        "/v1/federations/tiny/weights/1", headers=coordinator.admin
    )
    assert published.status_code == 200
    assert len(published.content) > _PIECE_BYTES


async def test_a_federation_that_cannot_be_recorded_leaves_nothing(
    coordinator: RunningCoordinator,
) -> None:
    no_answer = failing(PoolTimeoutError("no answer"))
    with before_statement(coordinator.context.database, "^INSERT INTO weights ", no_answer):
        refused = await coordinator.http.post(
            "/v1/federations", json=tiny_specification().document, headers=coordinator.admin
        )
    assert refused.status_code == 503, refused.text
    assert await unsealed_blobs(coordinator) == []
    await coordinator.create(tiny_specification())


async def test_an_update_that_comes_too_slowly_as_a_whole_is_given_up(
    coordinator: RunningCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(tiny_specification(), task)
    loop = asyncio.get_running_loop()
    passed = [0.0]
    real_time = loop.time
    monkeypatch.setattr(loop, "time", lambda: real_time() + passed[0])

    async def in_pieces() -> AsyncIterator[bytes]:
        yield body[:300]
        passed[0] += coordinator.context.settings.upload_seconds
        yield body[300:]

    path = f"/v1/federations/tiny/rounds/{task['round_number']}/updates/a"
    headers = coordinator.credentials["a"] | {"Content-Type": MEDIA_TYPE}
    given_up = await coordinator.http.put(
        path, params={"attempt": task["attempt"]}, content=in_pieces(), headers=headers
    )
    assert given_up.status_code == 408, given_up.text
    assert given_up.json()["detail"] == "the body did not arrive within 21600 s"
    assert await unsealed_blobs(coordinator) == []
    assert (await coordinator.put(task, body)).status_code == 201
