"""What the audit has written, and the tokens whose use it writes."""

from __future__ import annotations

from typing import Any

from tests.support.coordinator import RunningCoordinator

LOOK = "GET /v1/audit"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def events(coordinator: RunningCoordinator, after: int = 0) -> list[dict[str, Any]]:
    """All that was written, but that somebody looks at it."""
    return [one for one in await all_events(coordinator, after) if one["action"] != LOOK]


async def all_events(coordinator: RunningCoordinator, after: int = 0) -> list[dict[str, Any]]:
    answer = await coordinator.http.get(
        "/v1/audit", params={"after": after, "limit": 1000}, headers=coordinator.admin
    )
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


async def create_token(coordinator: RunningCoordinator, **body: Any) -> dict[str, str]:
    body = {"name": "dashboard", "scope": "read-only"} | body
    answer = await coordinator.http.post("/v1/tokens", json=body, headers=coordinator.admin)
    assert answer.status_code == 201, answer.text
    return bearer(answer.json()["token"])
