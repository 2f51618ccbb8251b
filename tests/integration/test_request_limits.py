"""Too many requests at once, and whether this coordinator is ready for any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs

from coordinator.liveness import Pulse
from coordinator.operations.upload_slots import UploadSlots
from coordinator.store.tables import BlobRow
from tests.support.coordinator import (
    SMALL_CHUNK_BYTES,
    RunningCoordinator,
    on_sqlite,
    running_coordinator,
)
from tests.support.specifications import tiny_specification
from tests.support.statements import before_statement, failing
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


async def _poll_until_rung(coordinator: RunningCoordinator) -> asyncio.Task[httpx.Response]:
    """A long poll that is being answered, and ends when the federation does."""
    polling = asyncio.create_task(
        coordinator.http.get(
            "/v1/federations/tiny/task", params={"wait": 30}, headers=coordinator.credentials["a"]
        )
    )
    while not coordinator.context.tasks_bell._events:  # noqa: ASYNC110 - a bell
        await asyncio.sleep(0.01)
    return polling


async def test_requests_over_the_number_answered_at_once_are_told_to_come_again(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, max_concurrent_requests=1
    ) as coordinator:
        await coordinator.create(tiny_specification())
        await coordinator.enrol("tiny", "a")
        polling = await _poll_until_rung(coordinator)
        with capture_logs() as logs:
            refused = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
        assert refused.status_code == 503
        [line] = [line for line in logs if line["event"] == "request refused"]
        assert line["reason"] == "max_concurrent_requests"
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["type"] == "urn:hyperfl:problem:unavailable"
        for probe in ("/healthz", "/readyz", "/metrics"):
            served = await coordinator.http.get(probe, headers=coordinator.admin)
            assert served.status_code == 200
        coordinator.context.tasks_bell.close()
        assert (await polling).status_code == 204
        served = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
        assert served.status_code == 200


async def test_requests_of_one_token_over_its_number_at_once_are_told_to_come_again(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, max_concurrent_requests_per_token=1
    ) as coordinator:
        await coordinator.create(tiny_specification())
        await coordinator.enrol("tiny", "a", "b")
        polling = await _poll_until_rung(coordinator)
        credential = coordinator.credentials["a"]["Authorization"].removeprefix("Bearer ")
        with capture_logs() as logs:
            for scheme in ("Bearer", "bearer", "BEARER "):
                refused = await coordinator.http.get(
                    "/v1/federations/tiny", headers={"Authorization": f"{scheme} {credential}"}
                )
                assert refused.status_code == 429
                assert int(refused.headers["Retry-After"]) > 0
                assert refused.json()["type"] == "urn:hyperfl:problem:too-many-requests"
        refusals = [line for line in logs if line["event"] == "request refused"]
        assert {line["reason"] for line in refusals} == {"max_concurrent_requests_per_token"}
        assert "credential" not in str(refusals)
        other = await coordinator.http.get(
            "/v1/federations/tiny", headers=coordinator.credentials["b"]
        )
        assert other.status_code == 200
        coordinator.context.tasks_bell.close()
        assert (await polling).status_code == 204
        served = await coordinator.http.get(
            "/v1/federations/tiny", headers=coordinator.credentials["a"]
        )
        assert served.status_code == 200


SPELLINGS = [
    [("Authorization", "Bearer TOKEN")],
    [("Authorization", "bearer TOKEN")],
    [("AUTHORIZATION", "BeArEr TOKEN")],
    [("Authorization", "Bearer   TOKEN")],
    [("Authorization", "Bearer TOKEN\t")],
    [("Authorization", "Bearer TOKEN"), ("Authorization", "Bearer another")],
]


async def test_a_tokens_rate_holds_however_its_header_is_spelt(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, requests_per_second_per_token=1.0
    ) as coordinator:
        token = coordinator.admin["Authorization"].removeprefix("Bearer ")
        answers = []
        for number in range(30):
            headers = [
                (name, value.replace("TOKEN", token))
                for name, value in SPELLINGS[number % len(SPELLINGS)]
            ]
            answers.append((await coordinator.http.get("/v1/tokens", headers=headers)).status_code)
        assert answers == [200] * 10 + [429] * 20


async def test_updates_of_one_assignment_come_two_at_once(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, chunk_bytes=SMALL_CHUNK_BYTES
    ) as coordinator:
        coordinator.app.state.upload_slots = UploadSlots(wait_seconds=0.01)
        specification = tiny_specification()
        await coordinator.started(specification, "a", "b")
        task = await coordinator.task("tiny", "a")
        body = update_bytes(specification, task)
        may_end = asyncio.Event()
        begun = 0

        async def slow_body() -> AsyncIterator[bytes]:
            nonlocal begun
            yield body[:-1]
            begun += 1
            await may_end.wait()
            yield body[-1:]

        coming = [asyncio.create_task(coordinator.put(task, slow_body())) for _ in range(2)]
        while begun < 2:  # noqa: ASYNC110 - the coordinator asks for more
            await asyncio.sleep(0.01)
        for _ in range(3):
            refused = await coordinator.put(task, body)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.json()["type"] == "urn:hyperfl:problem:too-many-requests"
        other = await coordinator.task("tiny", "b")
        recorded = await coordinator.put(other, update_bytes(specification, other))
        assert recorded.status_code == 201, "another client's come meanwhile"
        async with coordinator.context.database.reading() as session:
            unsealed = select(func.count()).where(BlobRow.digest.is_(None))
            assert await session.scalar(unsealed) == 2
        may_end.set()
        assert sorted([(await one).status_code for one in coming]) == [200, 201]
        assert (await coordinator.put(task, body)).status_code == 200


async def test_readiness_is_asked_of_the_database_once_a_second(
    coordinator: RunningCoordinator,
) -> None:
    asked = 0
    engine = coordinator.context.database.engine.sync_engine

    def count(*_: object) -> None:
        nonlocal asked
        asked += 1

    event.listen(engine, "checkout", count)
    for expected in (1, 2):
        answers = await asyncio.gather(*(coordinator.http.get("/readyz") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert (await coordinator.http.get("/readyz")).status_code == 200
        assert asked == expected
        coordinator.clock.advance(1.0)


async def test_a_database_that_does_not_answer_is_not_ready_and_is_asked_again(
    coordinator: RunningCoordinator,
) -> None:
    no_answer = failing(PoolTimeoutError("no connection"))
    with before_statement(coordinator.context.database, "", no_answer):
        answers = await asyncio.gather(*(coordinator.http.get("/readyz") for _ in range(3)))
        assert {answer.status_code for answer in answers} == {503}
    assert (await coordinator.http.get("/readyz")).status_code == 503, "for a second"
    coordinator.clock.advance(1.0)
    assert (await coordinator.http.get("/readyz")).status_code == 200


@on_sqlite
async def test_a_driver_that_moves_no_rounds_is_not_ready(
    coordinator: RunningCoordinator,
) -> None:
    silent = Pulse(longest_silence_seconds=130.0, monotonic=iter([0.0, 130.0, 131.0]).__next__)
    coordinator.app.state.context = replace(coordinator.context, driver_pulse=silent)
    not_started = await coordinator.http.get("/readyz")
    silent.beat()
    beating = await coordinator.http.get("/readyz")
    died = await coordinator.http.get("/readyz")
    assert [one.status_code for one in (not_started, beating, died)] == [503, 200, 503]
    assert "has not started" in not_started.json()["detail"]
    assert "has done nothing for 131 s" in died.json()["detail"]
