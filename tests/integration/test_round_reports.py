"""What a round came to is written down once, and read from there."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from coordinator.operations import round_reports
from coordinator.store.tables import RoundRow
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import send_updates
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration


async def reports_of(coordinator: RunningCoordinator) -> list[str | None]:
    query = select(RoundRow.report).order_by(RoundRow.number)
    async with coordinator.context.database.reading() as session:
        return list(await session.scalars(query))


async def test_a_closed_round_is_reported_once(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification(rounds=3)
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a")
    live, *_ = await round_reports.list_newest(coordinator.context, "tiny", 10)
    assert (live.report.updates, live.report.cohort_size) == (1, 2), "of an open round so far"
    coordinator.clock.advance(5)
    await send_updates(coordinator, specification, "b")
    await coordinator.driver.step()
    first, second = await reports_of(coordinator)
    assert second is None
    assert first is not None
    await coordinator.driver.step()
    assert (await reports_of(coordinator))[0] == first
    listed = await round_reports.list_newest(coordinator.context, "tiny", 10)
    assert [one.number for one in listed] == [2, 1]
    closed = listed[1]
    assert closed.report.updates == closed.report.cohort_size == 2
    assert closed.report.model_dump_json() == first
    assert closed.report.bytes_up > 0
    assert closed.seconds == 5
    assert closed.seconds_aggregating == 0
    assert closed.accuracy is not None


async def test_rounds_of_before_get_their_reports_by_and_by(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(rounds=2)
    await coordinator.started(specification, "a")
    for _ in range(2):
        await send_updates(coordinator, specification, "a")
        await coordinator.driver.step()
    written = await reports_of(coordinator)
    assert len(written) == 2
    async with coordinator.context.database.writing() as session:
        await session.execute(update(RoundRow).values(report=None, claimed_at=None))
    counted = await round_reports.list_newest(coordinator.context, "tiny", 10)
    assert [one.report.updates for one in counted] == [1, 1], "counted where there is none yet"
    assert counted[0].seconds_aggregating is None
    await coordinator.driver.step()
    assert await reports_of(coordinator) == written


async def test_a_failed_round_says_who_declined(coordinator: RunningCoordinator) -> None:
    await coordinator.started(tiny_specification(minimum_updates=2), "a", "b")
    task = await coordinator.task("tiny", "a")
    declined = await coordinator.http.put(
        "/v1/federations/tiny/rounds/1/decline",
        params={"attempt": task["attempt"]},
        json={"reason": "no data"},
        headers=coordinator.credentials["a"],
    )
    assert declined.status_code == 200
    coordinator.clock.advance(4000)
    await coordinator.driver.step()
    failed = (await round_reports.list_newest(coordinator.context, "tiny", 10))[-1]
    assert (failed.report.declined, failed.report.updates, failed.phase) == (1, 0, "failed")
