"""What is slow or fails in one place of a driver's step keeps nothing else from being done."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import InvalidRequestError

from coordinator.rounds.driver import _AGGREGATED_AT_ONCE, Driver
from coordinator.store.tables import RoundRow, UpdateRow
from tests.support.coordinator import RunningCoordinator
from tests.support.held_aggregations import HeldAggregations
from tests.support.rounds import phases, send_updates
from tests.support.specifications import tiny_specification
from tests.support.statements import Values, before_statement, failing

pytestmark = pytest.mark.integration

FAULT = InvalidRequestError("a fault, and no outage")
COUNT_UPDATES = r"^SELECT count\(\*\) FILTER .* FROM assignments "
"""What decides the fate of one round."""
SPENT_UPDATES = r"^SELECT blobs\.id FROM blobs JOIN updates "
"""What a sweep looks at first."""
NEWEST_VERSIONS = r"^SELECT federations\.id, federations\.name, federations\.weights_version FROM"
"""What retention looks at first."""


async def with_due_rounds(coordinator: RunningCoordinator, *names: str) -> None:
    """Federations whose first rounds are complete, each with a client of its own name."""
    for name in names:
        await coordinator.started(tiny_specification(name), name)
    for name in names:
        await send_updates(coordinator, tiny_specification(name), name)


async def test_a_long_aggregation_holds_up_no_other_federations_deadline(
    coordinator: RunningCoordinator,
) -> None:
    await with_due_rounds(coordinator, "long")
    aggregations = HeldAggregations()
    hold = aggregations.hold_next()
    context = coordinator.context
    running = asyncio.create_task(Driver(context, aggregate=aggregations.aggregate).run())
    await hold.reached()
    await coordinator.create(tiny_specification(deadline_seconds=10))
    await coordinator.enrol("tiny", "b")
    await coordinator.act("tiny", "start")
    opened = None
    while opened is None:
        async with context.database.reading() as session:
            opened = await session.scalar(
                select(RoundRow.federation_id).where(RoundRow.phase == "open")
            )
        await asyncio.sleep(0)
    reopened = context.tasks_bell.listen(opened)
    coordinator.clock.advance(11)
    context.driver_wake.set()
    await asyncio.wait_for(reopened.wait(), 10)
    assert await phases(coordinator) == ["failed", "open"]
    assert await phases(coordinator, "long") == ["aggregating"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_few_aggregations_run_at_once_and_the_others_wait_for_a_place(
    coordinator: RunningCoordinator,
) -> None:
    names = [f"one-of-{index}" for index in range(_AGGREGATED_AT_ONCE + 1)]
    await with_due_rounds(coordinator, *names)
    aggregations = HeldAggregations()
    holds = [aggregations.hold_next(at_start=True) for _ in names]
    driver = Driver(coordinator.context, aggregate=aggregations.aggregate)
    step = asyncio.create_task(driver.step())
    for hold in holds[:-1]:
        await hold.reached()
    begun = [(await phases(coordinator, name))[0] for name in names]
    assert sorted(begun) == ["aggregating"] * _AGGREGATED_AT_ONCE + ["open"]
    holds[0].let_go()
    await holds[-1].reached()
    for hold in holds:
        hold.let_go()
    await asyncio.wait_for(step, 10)
    for name in names:
        assert await phases(coordinator, name) == ["committed", "open"]


async def test_a_fault_of_one_federation_stops_no_other(coordinator: RunningCoordinator) -> None:
    await with_due_rounds(coordinator, "first", "second")
    async with coordinator.context.database.reading() as session:
        of_first = select(RoundRow.id).where(RoundRow.federation_id == 1)
        first_round = (await session.scalars(of_first)).one()

    def fail_for_the_first(values: Values) -> None:
        if first_round in values:
            raise FAULT

    with before_statement(coordinator.context.database, COUNT_UPDATES, fail_for_the_first):
        await coordinator.driver.step()
    assert await phases(coordinator, "first") == ["open"]
    assert await phases(coordinator, "second") == ["committed", "open"]


async def test_a_fault_of_a_commit_fails_the_round_with_a_reason(
    coordinator: RunningCoordinator,
) -> None:
    await with_due_rounds(coordinator, "tiny")
    with before_statement(coordinator.context.database, "^INSERT INTO weights ", failing(FAULT)):
        await coordinator.driver.step()
    assert await phases(coordinator) == ["failed", "open"]
    reason = (await coordinator.show("tiny/rounds/1"))["reason"]
    assert reason == ("the aggregation failed: InvalidRequestError: a fault, and no outage")


async def kept_updates(coordinator: RunningCoordinator) -> int:
    async with coordinator.context.database.reading() as session:
        return (await session.scalars(select(func.count(UpdateRow.blob_id)))).one()


async def test_spent_updates_are_deleted_one_by_one_and_none_keeps_the_others(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b", "c")
    await send_updates(coordinator, specification, "a", "b", "c")
    deleted, retention = list[int](), list[bool]()

    def fail_for_the_second(values: Values) -> None:
        deleted.extend(values)
        assert len(values) <= 1
        if len(deleted) == 2:
            raise FAULT

    def fail(_: Values) -> None:
        retention.append(True)
        raise FAULT

    database = coordinator.context.database
    with (
        before_statement(database, "^DELETE FROM blobs ", fail_for_the_second),
        before_statement(database, NEWEST_VERSIONS, fail),
    ):
        await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]
    assert (len(deleted), len(retention), await kept_updates(coordinator)) == (3, 1, 1)
    await coordinator.driver.step()
    assert await kept_updates(coordinator) == 0


async def test_long_polls_are_woken_before_anything_is_swept(
    coordinator: RunningCoordinator,
) -> None:
    await with_due_rounds(coordinator, "tiny")
    coordinator.driver._last_activity.clear()
    rung = coordinator.context.tasks_bell.listen(1)
    was_rung = list[bool]()

    def look(_: Values) -> None:
        was_rung.append(rung.is_set())

    with before_statement(coordinator.context.database, SPENT_UPDATES, look):
        await coordinator.driver._tidy_up()
    assert was_rung == [True]
