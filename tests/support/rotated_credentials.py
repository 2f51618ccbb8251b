"""A client's new credential, and what a credential is answered."""

from __future__ import annotations

from tests.support.audit import bearer
from tests.support.coordinator import RunningCoordinator

PREFIX = "/v1/federations/tiny"


async def rotate(
    coordinator: RunningCoordinator, name: str, headers: dict[str, str]
) -> dict[str, str]:
    answer = await coordinator.http.post(f"{PREFIX}/clients/{name}/rotate", headers=headers)
    assert answer.status_code == 200, answer.text
    return bearer(answer.json()["credential"])


async def poll(coordinator: RunningCoordinator, headers: dict[str, str]) -> int:
    return (await coordinator.http.get(f"{PREFIX}/task", headers=headers)).status_code
