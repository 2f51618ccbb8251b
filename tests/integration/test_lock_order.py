"""Transactions that meet on PostgreSQL: they wait for each other in one order, so none is ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from coordinator.database.transactions import Database
from coordinator.store import blobs
from coordinator.store.tables import AssignmentRow, FederationRow, RoundRow
from tests.support.coordinator import RunningCoordinator, small_chunks
from tests.support.postgres import new_database
from tests.support.rounds import unsealed_blobs
from tests.support.specifications import tiny_specification
from tests.support.statements import Values, after_statement, before_statement
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

_TIMEOUT_SECONDS = 60
TOKEN_EXISTS = r"^SELECT tokens\.id FROM tokens WHERE tokens\.id = .* AND tokens\.digest = "
"""Asked under the client's lock."""


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """SQLite has one lock for all, and no order of locks."""
    yield from new_database(postgres_url)


class Gate:
    """A place in a transaction where the first that comes stops until it may go on."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def stop(self, _: Values) -> None:
        if not self._reached.is_set():
            self._reached.set()
            await self._opened.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await self._reached.wait()

    def open(self) -> None:
        self._opened.set()


async def somebody_waits(database: Database) -> None:
    """Returns when a connection waits for a lock that another one holds."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while True:
            async with database.reading() as session:
                if await session.scalar(query):
                    return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def meeting(first: Awaitable[Any], gate: Gate, database: Database) -> AsyncIterator[None]:
    """The block begins while ``first`` stands at the gate; then ``first`` goes on to its end."""
    running = asyncio.ensure_future(first)
    await gate.reached()
    yield
    await somebody_waits(database)
    gate.open()
    await running


async def submit(coordinator: RunningCoordinator, client: str) -> None:
    task = await coordinator.task("tiny", client)
    sent = await coordinator.put(task, update_bytes(tiny_specification(), task))
    assert sent.status_code == 201, sent.text


async def test_a_federation_is_finished_while_a_round_is_committed(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    await submit(coordinator, "a")
    gate = Gate()
    database = coordinator.context.database
    with before_statement(database, "^INSERT INTO weights ", gate.stop):
        async with meeting(coordinator.driver.step(), gate, database):
            finishing = asyncio.create_task(coordinator.act("tiny", "finish"))
    finished = await finishing
    assert finished.status_code == 200, finished.text
    assert (finished.json()["state"], finished.json()["weights_version"]) == ("finished", 1)
    rounds = await coordinator.show("tiny/rounds")
    assert [round_["phase"] for round_ in rounds] == ["committed", "failed"]


async def test_a_federation_is_finished_while_a_round_fails(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(deadline_seconds=10), "a")
    coordinator.clock.advance(11)
    gate = Gate()
    database = coordinator.context.database
    with before_statement(database, "^UPDATE federations SET failed_rounds=", gate.stop):
        async with meeting(coordinator.driver.step(), gate, database):
            finishing = asyncio.create_task(coordinator.act("tiny", "finish"))
    finished = await finishing
    assert finished.status_code == 200, finished.text
    [round_] = await coordinator.show("tiny/rounds")
    assert round_["reason"] == "0 updates at the end of the round, 1 needed"


async def test_a_client_is_invited_again_while_it_enrols(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    path = "/v1/federations/tiny/clients"
    invited = await coordinator.http.post(path, json={"name": "a"}, headers=coordinator.admin)
    token = {"enrolment_token": invited.json()["enrolment_token"]}
    gate = Gate()
    database = coordinator.context.database
    with after_statement(database, TOKEN_EXISTS, gate.stop):
        enrolling = asyncio.create_task(coordinator.http.post("/v1/enrolments", json=token))
        async with meeting(enrolling, gate, database):
            inviting = asyncio.create_task(
                coordinator.http.post(path, json={"name": "a"}, headers=coordinator.admin)
            )
    enrolled, again = await enrolling, await inviting
    assert (enrolled.status_code, again.status_code) == (201, 201), (enrolled.text, again.text)
    credential = {"Authorization": f"Bearer {enrolled.json()['credential']}"}
    shown = await coordinator.http.get("/v1/federations/tiny", headers=credential)
    assert shown.status_code == 401, "the newer invitation ended it"


async def test_a_credential_that_was_replaced_before_its_first_use_ends_no_other(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    first = coordinator.credentials["a"]

    async def rotate() -> dict[str, str]:
        rotated = await coordinator.http.post(
            "/v1/federations/tiny/clients/a/rotate", headers=first
        )
        assert rotated.status_code == 200, rotated.text
        return {"Authorization": f"Bearer {rotated.json()['credential']}"}

    async def show(credential: dict[str, str]) -> int:
        shown = await coordinator.http.get("/v1/federations/tiny", headers=credential)
        return shown.status_code

    second = await rotate()
    gate = Gate()
    with before_statement(
        coordinator.context.database, "^SELECT .* FROM clients .* FOR NO KEY UPDATE", gate.stop
    ):
        using_second = asyncio.create_task(show(second))
        await gate.reached()
        third = await rotate()
        gate.open()
        assert await using_second == 401
    assert await show(first) == 200, "or a client whose answer is lost now would be shut out"
    assert await show(third) == 200
    assert await show(first) == 401


async def test_leases_that_somebody_holds_are_left_for_the_next_time(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(lease_seconds=5)
    await coordinator.started(specification, "a", "b")
    for client in "ab":
        await coordinator.task("tiny", client)
    coordinator.clock.advance(6)

    async def states() -> dict[str, str]:
        shown = await coordinator.show("tiny/rounds/1")
        return {one["client"]: one["state"] for one in shown["assignments"]}

    database = coordinator.context.database
    async with database.writing() as session:
        held = select(AssignmentRow).order_by(AssignmentRow.id).limit(1).with_for_update()
        await session.execute(held)
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await coordinator.driver.step()
        assert sorted((await states()).values()) == ["expired", "leased"]
    await coordinator.driver.step()
    assert await states() == {"a": "expired", "b": "expired"}


async def test_whoever_is_ended_by_a_deadlock_is_asked_to_come_again(
    coordinator: RunningCoordinator,
) -> None:
    """With somebody's own query on the database, say, which knows no order."""
    await coordinator.started(tiny_specification(), "a")
    async with coordinator.context.database.writing() as session:
        # The other side looks for deadlocks first, and so is the one to be ended.
        await session.execute(text("SET LOCAL deadlock_timeout = '1h'"))
        await session.execute(select(RoundRow).with_for_update())
        finishing = asyncio.create_task(coordinator.act("tiny", "finish"))
        await somebody_waits(coordinator.context.database)
        await session.execute(select(FederationRow).with_for_update())
        ended = await finishing
    assert ended.status_code == 503
    assert ended.json()["type"] == "urn:hyperfl:problem:unavailable"
    assert int(ended.headers["Retry-After"]) > 0
    assert (await coordinator.show("tiny"))["state"] == "running"
    assert (await coordinator.act("tiny", "finish")).status_code == 200


@small_chunks
async def test_a_blob_that_is_just_being_sealed_is_not_swept(
    coordinator: RunningCoordinator,
) -> None:
    database, now = coordinator.context.database, coordinator.clock()
    writer = await coordinator.context.blobs.write(now, [bytes(300)])
    assert len(await unsealed_blobs(coordinator)) == 1
    async with database.writing() as sealing:
        blob_id = await writer.seal(sealing)
        async with asyncio.timeout(_TIMEOUT_SECONDS), database.writing() as sweeping:
            assert await blobs.delete_unsealed(sweeping, now + timedelta(days=2)) == 0
    assert await coordinator.context.blobs.read_whole(blob_id) == bytes(300)
