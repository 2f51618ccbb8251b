"""A coordinator that aggregates for longer than its lease keeps it, and stops when it is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from coordinator.context import Context
from coordinator.rounds import moves
from coordinator.rounds.driver import Driver
from coordinator.store import rounds as round_store
from coordinator.store.blobs import BlobStore, BlobWriter
from tests.support.coordinator import RunningCoordinator, small_chunks
from tests.support.rounds import phases, send_updates, unsealed_blobs
from tests.support.specifications import tiny_specification
from tests.support.statements import before_statement, failing
from tests.support.waiting import HeldSleep

pytestmark = [pytest.mark.integration, small_chunks]


class HeldWrites(BlobStore):
    """The blob that is begun as the ``held``-th is not completed until it may be."""

    def __init__(self, store: BlobStore, held: int) -> None:
        super().__init__(store.database, store.chunk_bytes)
        self.count = 0
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        self._held = held

    def writer(self, now: datetime) -> BlobWriter:
        self.count += 1
        return super().writer(now) if self.count != self._held else _HeldWriter(self, now)


class _HeldWriter(BlobWriter):
    def __init__(self, store: HeldWrites, now: datetime) -> None:
        super().__init__(store, now)
        self._writes = store

    async def append(self, piece: bytes | bytearray | memoryview) -> None:
        await super().append(piece)
        if self.size_bytes > self._writes.chunk_bytes:  # so some of it is in the database
            self._writes.reached.set()
            await self._writes.released.wait()


NUM_BLOBS = {"dense": 1, "factored": 3}
"""Of a result, by the federation's encoding."""


@pytest.fixture
def writes(coordinator: RunningCoordinator) -> HeldWrites:
    """Where the aggregation's result is written; :func:`aggregating` is given it."""
    return HeldWrites(coordinator.context.blobs, held=1)


@pytest.fixture
def replica(replica_context: Context) -> Driver:
    """The driver of a second coordinator on the same database and clock."""
    return Driver(replica_context)


async def aggregating(
    coordinator: RunningCoordinator,
    sleep: HeldSleep,
    encoding: str = "dense",
    *,
    writes: HeldWrites | None = None,
) -> asyncio.Task[None]:
    """A step of a driver that aggregates the first round, with what extends its lease asleep."""
    specification = tiny_specification(encoding=encoding)
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a", "b")
    context = replace(coordinator.context, blobs=writes or coordinator.context.blobs)
    return asyncio.create_task(Driver(context, sleep).step())


async def reached(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


@pytest.mark.parametrize("encoding", NUM_BLOBS)
async def test_a_lease_is_extended_while_the_result_is_written(
    coordinator: RunningCoordinator, replica: Driver, writes: HeldWrites, encoding: str
) -> None:
    sleep = HeldSleep()
    step = await aggregating(coordinator, sleep, encoding, writes=writes)
    await reached(writes.reached)
    lease_seconds = coordinator.context.settings.aggregation_lease_seconds
    seconds, end = await sleep.next()
    for _ in range(7):
        assert seconds == lease_seconds / 3
        coordinator.clock.advance(seconds)
        end.set()
        seconds, end = await sleep.next()  # the lease was extended in between
        await replica.step()
    assert (await phases(coordinator), writes.count) == (["aggregating"], 1)
    writes.released.set()
    await asyncio.wait_for(step, 10)
    assert await phases(coordinator) == ["committed", "open"]
    assert await unsealed_blobs(coordinator) == []


@pytest.mark.parametrize("encoding", NUM_BLOBS)
async def test_work_is_cancelled_when_another_coordinator_has_taken_the_round(
    coordinator: RunningCoordinator, replica: Driver, encoding: str
) -> None:
    sleep = HeldSleep()
    writes = HeldWrites(coordinator.context.blobs, held=NUM_BLOBS[encoding])
    step = await aggregating(coordinator, sleep, encoding, writes=writes)
    await reached(writes.reached)
    _, end = await sleep.next()
    coordinator.clock.advance(coordinator.context.settings.aggregation_lease_seconds)
    await replica.step()
    before = await coordinator.show("tiny")
    assert (before["weights_version"], await phases(coordinator)) == (1, ["committed", "open"])
    end.set()
    await asyncio.wait_for(step, 10)  # though its write is still held
    assert await coordinator.show("tiny") == before
    assert await unsealed_blobs(coordinator) == []


@pytest.mark.parametrize("encoding", NUM_BLOBS)
async def test_work_is_cancelled_when_its_federation_is_finished(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    sleep = HeldSleep()
    writes = HeldWrites(coordinator.context.blobs, held=NUM_BLOBS[encoding])
    step = await aggregating(coordinator, sleep, encoding, writes=writes)
    await reached(writes.reached)
    assert len(await unsealed_blobs(coordinator)) == NUM_BLOBS[encoding]
    _, end = await sleep.next()
    await coordinator.act("tiny", "finish")
    end.set()
    await asyncio.wait_for(step, 10)
    assert await phases(coordinator) == ["failed"]
    assert await unsealed_blobs(coordinator) == []


@pytest.mark.parametrize("failure", [PoolTimeoutError("no answer"), InvalidRequestError("a fault")])
async def test_a_lease_that_could_not_be_extended_is_extended_the_next_time(
    coordinator: RunningCoordinator,
    writes: HeldWrites,
    failure: SQLAlchemyError,
) -> None:
    sleep = HeldSleep()
    step = await aggregating(coordinator, sleep, writes=writes)
    await reached(writes.reached)
    _, end = await sleep.next()
    with before_statement(
        coordinator.context.database, "^UPDATE rounds SET lease_expires_at=", failing(failure)
    ):
        end.set()
        seconds, end = await sleep.next()
    coordinator.clock.advance(seconds)
    end.set()
    await sleep.next()
    writes.released.set()
    await asyncio.wait_for(step, 10)
    assert await phases(coordinator) == ["committed", "open"]


async def test_a_commit_that_has_ended_its_lease_is_not_taken_for_a_lost_one(
    coordinator: RunningCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = HeldSleep()
    commit, extend = moves.commit, round_store.extend_aggregation
    answers: asyncio.Queue[bool] = asyncio.Queue()

    async def noting(*arguments: Any) -> bool:
        answers.put_nowait(await extend(*arguments))
        return False

    async def slowly_returning(*arguments: Any) -> bool:
        committed = await commit(*arguments)
        _, end = await sleep.next()
        end.set()
        assert not await asyncio.wait_for(answers.get(), 10)
        return committed

    monkeypatch.setattr(round_store, "extend_aggregation", noting)
    monkeypatch.setattr(moves, "commit", slowly_returning)
    with structlog.testing.capture_logs() as logs:
        await (await aggregating(coordinator, sleep))
    assert "round committed" in [entry["event"] for entry in logs]
    assert await phases(coordinator) == ["committed", "open"]
