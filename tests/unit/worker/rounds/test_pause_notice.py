"""A worker whose federation is paused says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from structlog.testing import capture_logs

from shared.rest.schema import FederationState
from tests.support.fake_coordinator import FakeCoordinator, credential
from tests.support.specifications import tiny_specification
from worker.remote.coordinator_api import CoordinatorApi
from worker.rounds.pause_notice import PauseNotice


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(
        tiny_specification(), state=FederationState.PAUSED, reason="paused by an administrator"
    )


@pytest.fixture
async def client(coordinator: FakeCoordinator) -> AsyncIterator[CoordinatorApi]:
    connected = CoordinatorApi(coordinator.address, credential("alice"))
    yield connected
    await connected.close()


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def notice(clock: Seconds) -> PauseNotice:
    return PauseNotice("tiny", clock)


async def test_a_pause_is_said_at_once_with_its_reason_and_again_each_hour(
    client: CoordinatorApi, notice: PauseNotice, clock: Seconds
) -> None:
    with capture_logs() as said:
        for _ in range(3 * 3600 // 20):
            await notice.look(client)
            clock.now += 20.0
    assert len(said) == 3
    assert said[0] == {
        "event": "no work: the federation is not running",
        "log_level": "warning",
        "state": "paused",
        "reason": "paused by an administrator",
    }


async def test_the_federation_is_looked_at_once_a_minute(
    coordinator: FakeCoordinator, client: CoordinatorApi, notice: PauseNotice, clock: Seconds
) -> None:
    for _ in range(7):
        await notice.look(client)
        clock.now += 20.0
    assert len(coordinator.requests) == 3


async def test_each_pause_is_said(
    coordinator: FakeCoordinator, client: CoordinatorApi, notice: PauseNotice, clock: Seconds
) -> None:
    with capture_logs() as said:
        for state in (FederationState.PAUSED, FederationState.RUNNING, FederationState.PAUSED):
            coordinator.state = state
            await notice.look(client)
            clock.now += 60.0
    assert [line["state"] for line in said] == ["paused", "paused"]


async def test_a_federation_that_waits_for_its_start_is_said(
    coordinator: FakeCoordinator, client: CoordinatorApi, notice: PauseNotice
) -> None:
    coordinator.state, coordinator.reason = FederationState.DRAFT, None
    with capture_logs() as said:
        await notice.look(client)
    assert [(line["state"], line["reason"]) for line in said] == [("draft", None)]


async def test_a_coordinator_that_does_not_answer_is_left_to_the_polls(
    coordinator: FakeCoordinator, client: CoordinatorApi, notice: PauseNotice
) -> None:
    coordinator.answer("GET", "/tiny", httpx.ConnectError("connection refused"))
    with capture_logs() as said:
        await notice.look(client)
    assert said == []
