"""A coordinator that aggregates for longer than its lease keeps it, and stops when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from coordinator.aggregation_lease import AggregationLease
from coordinator.context import Context
from coordinator.database import Database
from coordinator.driver import Driver
from coordinator.metrics import CoordinatorMetrics
from coordinator.new_weights import _Aggregation
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import phases, send_updates, unsealed_blobs
from tests.support.specifications import tiny_specification
from tests.support.waiting import HeldSleep

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("small_chunks")]


@pytest.fixture
async def replica(coordinator: RunningCoordinator) -> AsyncIterator[Driver]:
    """The driver of a second coordinator on the same database and clock."""
    own = coordinator.context
    database = Database(own.settings.effective_database_url)
    yield Driver(Context(database, own.settings, own.clock, CoordinatorMetrics()))
    await database.close()


class HeldWrites:
    """The first result is written and not returned until it may be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        write = _Aggregation._write

        async def held(aggregation: _Aggregation, arrays: Any) -> Any:
            self.count += 1
            is_first = self.count == 1
            blob = await write(aggregation, arrays)
            if is_first:
                self.reached.set()
                await self.released.wait()
            return blob

        monkeypatch.setattr(_Aggregation, "_write", held)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> HeldWrites:
    return HeldWrites(monkeypatch)


async def aggregating(
    coordinator: RunningCoordinator, sleep: HeldSleep, encoding: str = "dense"
) -> asyncio.Task[None]:
    """A step of a driver that aggregates the first round, with what extends its lease asleep."""
    specification = tiny_specification(encoding=encoding)
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a", "b")
    return asyncio.create_task(Driver(coordinator.context, sleep).step())


async def reached(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


@pytest.mark.parametrize("encoding", ["dense", "factored"])
async def test_a_lease_is_extended_while_the_result_is_written(
    coordinator: RunningCoordinator, replica: Driver, writes: HeldWrites, encoding: str
) -> None:
    sleep = HeldSleep()
    step = await aggregating(coordinator, sleep, encoding)
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


async def test_work_is_cancelled_when_another_coordinator_has_taken_the_round(
    coordinator: RunningCoordinator, replica: Driver, writes: HeldWrites
) -> None:
    sleep = HeldSleep()
    step = await aggregating(coordinator, sleep)
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


async def test_work_is_cancelled_when_its_federation_is_finished(
    coordinator: RunningCoordinator, writes: HeldWrites
) -> None:
    sleep = HeldSleep()
    step = await aggregating(coordinator, sleep)
    await reached(writes.reached)
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
    monkeypatch: pytest.MonkeyPatch,
    failure: SQLAlchemyError,
) -> None:
    sleep = HeldSleep()
    step = await aggregating(coordinator, sleep)
    await reached(writes.reached)
    _, end = await sleep.next()
    with monkeypatch.context() as patch:

        async def fail(_: AggregationLease) -> bool:
            raise failure

        patch.setattr(AggregationLease, "_extend", fail)
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
    commit, extend = Driver._commit, AggregationLease._extend
    answers: asyncio.Queue[bool] = asyncio.Queue()

    async def noting(lease: AggregationLease) -> bool:
        answers.put_nowait(await extend(lease))
        return False

    async def slowly_returning(*arguments: Any) -> bool:
        committed = await commit(*arguments)
        _, end = await sleep.next()
        end.set()
        assert not await asyncio.wait_for(answers.get(), 10)
        return committed

    monkeypatch.setattr(AggregationLease, "_extend", noting)
    monkeypatch.setattr(Driver, "_commit", slowly_returning)
    with structlog.testing.capture_logs() as logs:
        await (await aggregating(coordinator, sleep))
    assert "round committed" in [entry["event"] for entry in logs]
    assert await phases(coordinator) == ["committed", "open"]
