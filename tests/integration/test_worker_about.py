"""What workers say of themselves with their polls, and where it is seen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration

ABOUT = {"worker_version": "0.2.0", "torch_version": "2.14.0+cpu", "device": "cuda, NVIDIA H200"}


async def poll(coordinator: RunningCoordinator, **query: Any) -> int:
    answer = await coordinator.http.get(
        "/v1/federations/tiny/task", params=query, headers=coordinator.credentials["a"]
    )
    return answer.status_code


async def known(coordinator: RunningCoordinator) -> dict[str, Any]:
    (client,) = await coordinator.show("tiny/clients")
    return {name: client[name] for name in ABOUT}


async def test_the_last_poll_counts_at_once(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    assert await poll(coordinator, **ABOUT) == 204
    assert await known(coordinator) == ABOUT
    assert await poll(coordinator, **ABOUT | {"device": "cpu"}) == 204
    assert await known(coordinator) == ABOUT | {"device": "cpu"}
    # A worker of before says nothing, and goes on.
    assert await poll(coordinator) == 204
    assert await known(coordinator) == dict.fromkeys(ABOUT)


@pytest.mark.parametrize("text", ["", "x" * 65, "a\nb", "\u202e", "\x1b[2J"])
async def test_what_is_no_short_line_is_refused(coordinator: RunningCoordinator, text: str) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    assert await poll(coordinator, device=text) == 422
    assert await known(coordinator) == dict.fromkeys(ABOUT)
