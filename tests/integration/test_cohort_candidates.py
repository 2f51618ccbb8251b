"""Whom a round is opened for: clients that have asked for work since they enrolled."""

from __future__ import annotations

import pytest

from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import send_updates
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration


async def enrol_alone(coordinator: RunningCoordinator, name: str) -> None:
    """As a worker that ends before its first poll: its data cannot be used, for example."""
    token = await coordinator.invite("tiny", name)
    reply = await coordinator.http.post("/v1/enrolments", json={"enrolment_token": token})
    credential = {"Authorization": f"Bearer {reply.json()['credential']}"}
    looked = await coordinator.http.get("/v1/federations/tiny", headers=credential)
    assert looked.status_code == 200, looked.text
    coordinator.credentials[name] = credential


async def cohort(coordinator: RunningCoordinator, number: int) -> list[str]:
    round_ = await coordinator.show(f"tiny/rounds/{number}")
    return sorted(one["client"] for one in round_["assignments"])


async def test_a_client_that_never_asked_for_work_keeps_no_round_waiting(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification(minimum_updates=2, rounds=3)
    await coordinator.create(specification)
    await enrol_alone(coordinator, "broken")
    await coordinator.enrol("tiny", "a")
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    shown = await coordinator.show("tiny")
    assert shown["reason"] == "waiting for 1 more clients to enrol and to ask for work"
    await coordinator.enrol("tiny", "b")
    await coordinator.driver.step()
    assert await cohort(coordinator, 1) == ["a", "b"]
    await send_updates(coordinator, specification, "a", "b")
    assert (await coordinator.poll("tiny", "broken")).status_code == 204
    await coordinator.driver.step()
    assert await cohort(coordinator, 2) == ["a", "b", "broken"]


async def test_the_first_poll_wakes_the_driver(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    await enrol_alone(coordinator, "a")
    coordinator.context.driver_wake.clear()
    await coordinator.poll("tiny", "a")
    assert coordinator.context.driver_wake.is_set()
    coordinator.context.driver_wake.clear()
    await coordinator.poll("tiny", "a")
    assert not coordinator.context.driver_wake.is_set()


async def test_a_client_that_enrols_again_is_drawn_when_it_asks_again(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification(minimum_updates=1))
    await coordinator.enrol("tiny", "a", "b")
    coordinator.clock.advance(5)
    await enrol_alone(coordinator, "b")
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    assert await cohort(coordinator, 1) == ["a"]
    await coordinator.poll("tiny", "b")
    await send_updates(coordinator, tiny_specification(minimum_updates=1), "a")
    await coordinator.driver.step()
    assert await cohort(coordinator, 2) == ["a", "b"]
