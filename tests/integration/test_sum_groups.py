"""Cohorts of secure sums: groups that stay and take turns."""

from __future__ import annotations

import pytest

from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.sum_members import protected_specification, start_protected
from tests.support.sum_rounds import live_phase

pytestmark = pytest.mark.integration


@on_sqlite
async def test_who_is_summed_with_whom_stays_the_same_and_groups_take_turns(
    coordinator: RunningCoordinator,
) -> None:
    specification = protected_specification(rounds=4, cohort_size=3)
    members = await start_protected(coordinator, specification, *"abcdefg")
    for number in range(1, 5):
        while await live_phase(coordinator, number) != "committed":
            for one in members:
                if await one.poll() is not None:
                    await one.work()
            await coordinator.driver.step()
    cohorts = [
        {part["client"] for part in (await coordinator.show(f"tiny/rounds/{n}"))["assignments"]}
        for n in range(1, 5)
    ]
    assert cohorts[:2] == cohorts[2:]
    assert cohorts[0] | cohorts[1] == set("abcdefg")
    assert not cohorts[0] & cohorts[1]
