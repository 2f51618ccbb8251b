"""Secure sums after a backup of a site, or of the coordinator, was put back."""

from __future__ import annotations

import pytest

from coordinator.store import rounds as round_store
from shared.rest.problems import ProblemType
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.sum_members import (
    SumMember,
    protected_specification,
    start_protected,
)
from tests.support.sum_rounds import decline, everybody, live_phase
from worker.errors import SumRefused

pytestmark = pytest.mark.integration

NAMES = ("a", "b", "c", "d")
"""A cohort of 4 has a threshold of 3."""


@on_sqlite
async def test_a_private_state_from_a_backup_is_refused(coordinator: RunningCoordinator) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    backup = members[0].state
    for _ in range(4):
        await everybody(coordinator, *members)
    members[0].state = backup
    task = await members[0].task()
    assert task.round_number == 2
    response = await members[0].send(task, members[0].make(task))
    assert response.json()["type"] == ProblemType.STATE_RESTORED.urn


async def test_after_a_restored_database_one_round_fails_and_the_next_skips_the_numbers_joined(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(rounds=1), *NAMES)
    # As if the members had joined rounds that this database does not know any more.
    for one, joined in zip(members, (7, 9, 8, 9), strict=True):
        task = await one.task()
        assert task.exchange is not None
        assert task.exchange.terms is not None
        later = task.exchange.terms.model_copy(update={"round_number": joined})
        one.state = one.member.join(one.state, later)
        with pytest.raises(SumRefused, match=f"has joined round {joined} before") as refusal:
            one.make(task)
        assert refusal.value.joined_round == joined
        await decline(coordinator, task, joined_round=joined)
    await coordinator.driver.step()
    assert await live_phase(coordinator) == "failed"
    for _ in range(4):
        await everybody(coordinator, *members)
    assert await live_phase(coordinator, 10) == "committed"


@on_sqlite
async def test_a_client_that_lies_about_what_it_joined_does_not_use_up_the_numbers(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(rounds=1), *NAMES)
    await decline(coordinator, await members[0].task(), joined_round=(1 << 31) - 1)
    for _ in range(4):
        await everybody(coordinator, *members[1:])
    assert await live_phase(coordinator) == "committed"
    async with coordinator.context.database.reading() as session:
        assert await round_store.next_number(session, 1) == 1002


@on_sqlite
async def test_new_keys_count_joins_anew(coordinator: RunningCoordinator) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for _ in range(3):
        await everybody(coordinator, *members)
    renewed = SumMember(coordinator, members[0].specification, "a")
    assert (await renewed.show_card()).status_code == 200
    await everybody(coordinator, *members)  # the round goes on with the keys of its terms
    assert await live_phase(coordinator) == "committed"
    for _ in range(4):
        await everybody(coordinator, renewed, *members[1:])
    assert await live_phase(coordinator, 2) == "committed"
