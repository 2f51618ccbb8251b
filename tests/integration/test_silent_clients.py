"""Clients that are not heard from: who they were is said, and a round need not wait for them."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
import structlog

from coordinator.context import Context
from coordinator.rounds.driver import Driver
from shared.federation.specification import FederationSpecification
from shared.rest.schema import MAX_NAMED
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import phases, send_updates
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

DEADLINE, GRACE = 3600, 30
_ENDS = ("opened", "deadline")


def patient_for(grace: float | None, **policy: Any) -> FederationSpecification:
    """Two updates are a quorum."""
    given = {"minimum_updates": 2, "deadline_seconds": DEADLINE, "grace_seconds": grace}
    return tiny_specification(**given | policy)


async def seconds_to_deadline(coordinator: RunningCoordinator, number: int = 1) -> float:
    """From the round's opening."""
    round_ = await coordinator.show(f"tiny/rounds/{number}")
    opened, deadline = (datetime.fromisoformat(round_[f"{name}_at"]) for name in _ENDS)
    return (deadline - opened).total_seconds()


async def test_a_round_ends_when_the_grace_time_after_its_quorum_is_over(
    coordinator: RunningCoordinator,
) -> None:
    specification = patient_for(GRACE)
    await coordinator.started(specification, "a", "b", "c", "d")
    late = await coordinator.task("tiny", "c")
    await send_updates(coordinator, specification, "a")
    coordinator.clock.advance(500)
    await coordinator.driver.step()
    assert await seconds_to_deadline(coordinator) == DEADLINE, "one update is no quorum"
    await send_updates(coordinator, specification, "b")
    coordinator.clock.advance(GRACE - 1)
    await coordinator.driver.step()
    assert await phases(coordinator) == ["open"]
    coordinator.clock.advance(1)
    with structlog.testing.capture_logs() as logs:
        await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]
    assert await seconds_to_deadline(coordinator) == 500 + GRACE
    (committed,) = (entry for entry in logs if entry["event"] == "round committed")
    assert committed["not_heard_from"] == "c, d"
    round_ = await coordinator.show("tiny/rounds/1")
    assert (round_["updates_received"], round_["not_heard_from"]) == (2, ["c", "d"])
    refused = await coordinator.put(late, update_bytes(specification, late))
    assert (refused.status_code, refused.json()["type"]) == (
        409,
        "urn:hyperfl:problem:round-closed",
    )


@pytest.mark.parametrize(
    ("grace", "quorum_after", "ends_after"),
    [(None, 0, DEADLINE), (DEADLINE + 1, 0, DEADLINE), (GRACE, 3590, DEADLINE), (0, 100, 100)],
    ids=["no grace time", "longer than the round", "ends after the deadline", "none to spare"],
)
async def test_the_deadline_is_the_end_unless_the_grace_time_is_over_before(
    coordinator: RunningCoordinator, grace: float | None, quorum_after: int, ends_after: int
) -> None:
    specification = patient_for(grace)
    await coordinator.started(specification, "a", "b", "c")
    coordinator.clock.advance(quorum_after)
    await send_updates(coordinator, specification, "a", "b")
    assert await seconds_to_deadline(coordinator) == ends_after
    coordinator.clock.advance(max(0, ends_after - quorum_after - 1))
    await coordinator.driver.step()
    assert await phases(coordinator) == (["committed", "open"] if grace == 0 else ["open"])
    coordinator.clock.advance(1)
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]


async def test_updates_after_the_quorum_count_and_give_nobody_more_time(
    coordinator: RunningCoordinator,
) -> None:
    specification = patient_for(GRACE)
    await coordinator.started(specification, "a", "b", "c", "d")
    await send_updates(coordinator, specification, "a", "b")
    coordinator.clock.advance(GRACE - 1)
    await send_updates(coordinator, specification, "c")
    assert await seconds_to_deadline(coordinator) == GRACE
    coordinator.clock.advance(1)
    await coordinator.driver.step()
    round_ = await coordinator.show("tiny/rounds/1")
    assert (round_["phase"], round_["updates_received"]) == ("committed", 3)
    assert round_["not_heard_from"] == ["d"]


async def test_a_round_that_everybody_answers_waits_for_nothing(
    coordinator: RunningCoordinator,
) -> None:
    specification = patient_for(GRACE)
    await coordinator.started(specification, "a", "b", "c")
    await send_updates(coordinator, specification, "a", "b", "c")
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]
    assert (await coordinator.show("tiny/rounds/1"))["not_heard_from"] == []


async def test_updates_that_come_at_once_make_one_quorum(coordinator: RunningCoordinator) -> None:
    specification = patient_for(GRACE)
    await coordinator.started(specification, "a", "b", "c", "d")
    with structlog.testing.capture_logs() as logs:
        await asyncio.gather(
            *(send_updates(coordinator, specification, client) for client in ("a", "b", "c"))
        )
    assert await seconds_to_deadline(coordinator) == GRACE
    assert [entry["event"] for entry in logs].count("round has its quorum") == 1


async def test_the_grace_time_outlives_the_coordinator_that_began_it(
    coordinator: RunningCoordinator, replica_context: Context
) -> None:
    specification = patient_for(GRACE)
    await coordinator.started(specification, "a", "b", "c")
    await send_updates(coordinator, specification, "a", "b")
    await coordinator.restart()
    replica = Driver(replica_context)
    coordinator.clock.advance(GRACE - 1)
    await asyncio.gather(replica.step(), coordinator.driver.step())
    assert await phases(coordinator) == ["open"]
    coordinator.clock.advance(1)
    await asyncio.gather(replica.step(), coordinator.driver.step())
    assert await phases(coordinator) == ["committed", "open"]
    assert (await coordinator.show("tiny"))["weights_version"] == 1


@pytest.mark.parametrize("quorum_comes_first", [True, False])
async def test_a_pause_takes_nothing_from_the_grace_time(
    coordinator: RunningCoordinator, quorum_comes_first: bool
) -> None:
    specification = patient_for(GRACE)
    await coordinator.started(specification, "a", "b", "c")
    tasks = [await coordinator.task("tiny", client) for client in ("a", "b")]
    bodies = [update_bytes(specification, task) for task in tasks]
    await coordinator.put(tasks[0], bodies[0])
    if quorum_comes_first:
        await coordinator.put(tasks[1], bodies[1])
        coordinator.clock.advance(GRACE - 1)
    await coordinator.act("tiny", "pause")
    if not quorum_comes_first:
        await coordinator.put(tasks[1], bodies[1])
    coordinator.clock.advance(1000)
    await coordinator.driver.step()
    await coordinator.act("tiny", "resume")
    coordinator.clock.advance(GRACE - 1)
    await coordinator.driver.step()
    assert await phases(coordinator) == ["open"]
    coordinator.clock.advance(1)
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]


async def test_the_final_evaluation_need_not_wait_for_everybody_either(
    coordinator: RunningCoordinator,
) -> None:
    specification = patient_for(GRACE, rounds=1, evaluate_final=True)
    await coordinator.started(specification, "a", "b", "c")
    await send_updates(coordinator, specification, "a", "b", "c")
    await coordinator.driver.step()
    await send_updates(coordinator, specification, "a")
    coordinator.clock.advance(DEADLINE - 1)
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"], "one answer is no quorum"
    await coordinator.act("tiny", "pause")
    await coordinator.act("tiny", "resume")
    await send_updates(coordinator, specification, "b")
    coordinator.clock.advance(GRACE)
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "committed"]
    assert (await coordinator.show("tiny"))["state"] == "finished"
    assert (await coordinator.show("tiny/rounds/2"))["not_heard_from"] == ["c"]


async def test_a_failed_round_names_a_few_of_those_who_were_missing(
    coordinator: RunningCoordinator,
) -> None:
    names = [f"c{number:02d}" for number in range(MAX_NAMED + 3)]
    await coordinator.started(patient_for(GRACE), *names)
    coordinator.clock.advance(DEADLINE)
    with structlog.testing.capture_logs() as logs:
        await coordinator.driver.step()
    (failed,) = (entry for entry in logs if entry["event"] == "round failed")
    assert failed["not_heard_from"] == ", ".join(names[:MAX_NAMED])
    assert failed["num_not_heard_from"] == len(names)
    (summary, _) = await coordinator.show("tiny/rounds")
    assert summary["not_heard_from"] == names[:MAX_NAMED]
    assert summary["cohort_size"] == len(names)
