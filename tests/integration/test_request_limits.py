"""Too many requests at once, and JSON that is made to hurt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from coordinator.body_limit import OTHER_BYTES, SPECIFICATION_BYTES
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration


async def _poll_until_rung(coordinator: RunningCoordinator) -> asyncio.Task[httpx.Response]:
    """A long poll that is being answered, and ends when the federation does."""
    polling = asyncio.create_task(
        coordinator.http.get(
            "/v1/federations/tiny/task", params={"wait": 30}, headers=coordinator.credentials["a"]
        )
    )
    while not coordinator.context.tasks_bell._events:  # noqa: ASYNC110 - a bell
        await asyncio.sleep(0.01)
    return polling


async def test_requests_over_the_number_answered_at_once_are_told_to_come_again(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, max_concurrent_requests=1
    ) as coordinator:
        await coordinator.create(tiny_specification())
        await coordinator.enrol("tiny", "a")
        polling = await _poll_until_rung(coordinator)
        refused = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["type"] == "urn:hyperfl:problem:unavailable"
        for probe in ("/healthz", "/readyz", "/metrics"):
            assert (await coordinator.http.get(probe)).status_code == 200
        coordinator.context.tasks_bell.close()
        assert (await polling).status_code == 204
        served = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
        assert served.status_code == 200


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    ("path", "limit"),
    [("/v1/enrolments", OTHER_BYTES), ("/v1/federations", SPECIFICATION_BYTES // 8)],
)
async def test_json_nested_without_end_is_an_invalid_request(
    coordinator: RunningCoordinator, path: str, limit: int, opening: str
) -> None:
    response = await coordinator.http.post(
        path,
        content=opening * (limit // len(opening)),
        headers=coordinator.admin | {"Content-Type": "application/json"},
    )
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "urn:hyperfl:problem:invalid-request"
    assert len(response.content) < 4096
