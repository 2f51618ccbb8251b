"""Members of a secure sum move its rounds on, or leave them."""

from __future__ import annotations

from shared.rest.schema import Task
from tests.support.coordinator import RunningCoordinator
from tests.support.sum_members import SumMember


async def everybody(coordinator: RunningCoordinator, *members: SumMember) -> None:
    """Each does what it is asked; then the coordinator moves on."""
    for one in members:
        await one.work()
    await coordinator.driver.step()


async def live_phase(coordinator: RunningCoordinator, number: int = 1) -> str:
    phase: str = (await coordinator.show(f"tiny/rounds/{number}"))["phase"]
    return phase


async def decline(coordinator: RunningCoordinator, task: Task, joined_round: int) -> None:
    response = await coordinator.http.put(
        f"/v1/federations/tiny/rounds/{task.round_number}/decline",
        params={"attempt": task.attempt},
        json={"reason": "joined before", "joined_round": joined_round},
        headers=coordinator.credentials[task.client],
    )
    assert response.status_code == 200, response.text
