"""Clients that decline a round: it waits for them no longer, and shows why."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from coordinator.operations import round_reports
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator
from tests.support.rounds import phases, send_updates
from tests.support.specifications import tiny_specification
from tests.support.sum_members import mean_change, protected_specification, start_protected
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

REASON = "policy.minimum_steps is 20"


async def decline(
    coordinator: RunningCoordinator,
    task: dict[str, Any],
    reason: Any = REASON,
    *,
    attempt: int | None = None,
    **more: Any,
) -> httpx.Response:
    return await coordinator.http.put(
        f"/v1/federations/{task['federation']}/rounds/{task['round_number']}/decline",
        params={"attempt": attempt or task["attempt"]},
        json={"reason": reason} | more,
        headers=coordinator.credentials[task["client"]],
    )


def kind_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix("urn:hyperfl:problem:")


async def test_a_round_goes_on_without_those_who_decline(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "b")
    await coordinator.driver.step()
    assert await phases(coordinator) == ["open"]
    coordinator.context.driver_wake.clear()
    task = await coordinator.task("tiny", "a")
    declined = await decline(coordinator, task)
    assert declined.status_code == 200, declined.text
    assert declined.json() == {"round_number": 1, "reason": REASON}
    assert coordinator.context.driver_wake.is_set()
    await coordinator.driver.step()
    assert await phases(coordinator) == ["committed", "open"]
    a, b = (await coordinator.show("tiny/rounds/1"))["assignments"]
    assert (a["state"], a["reason"]) == ("dropped", REASON)
    assert (b["state"], b["reason"]) == ("submitted", None)


async def test_the_kind_of_a_reason_is_in_the_round_its_report_the_audit_and_the_metrics(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    answer = await decline(coordinator, await coordinator.task("tiny", "a"), kind="policy")
    assert answer.json() == {"round_number": 1, "reason": REASON}
    await decline(coordinator, await coordinator.task("tiny", "b"), "a worker of before")
    await coordinator.driver.step()
    a, b = (await coordinator.show("tiny/rounds/1"))["assignments"]
    assert (a["reason_kind"], a["reason"]) == ("policy", REASON)
    assert (b["reason_kind"], b["reason"]) == ("other", "a worker of before")
    (report,) = [
        line.report
        for line in await round_reports.list_newest(coordinator.context, "tiny", 10)
        if line.number == 1
    ]
    assert report is not None
    assert report.declined_by_kind == {"policy": 1, "other": 1}
    events = (await coordinator.http.get("/v1/audit", headers=coordinator.admin)).json()
    assert "federation_name=tiny round_number=1 reason=policy" in {one["subject"] for one in events}
    counted = coordinator.context.metrics.declines.labels("policy")
    assert counted._value.get() == 1


async def test_a_kind_is_one_of_the_list(coordinator: RunningCoordinator) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    assert (await decline(coordinator, task, kind="weather")).status_code == 422


async def test_the_driver_sleeps_while_others_are_awaited(coordinator: RunningCoordinator) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    coordinator.context.driver_wake.clear()
    await decline(coordinator, await coordinator.task("tiny", "a"))
    assert not coordinator.context.driver_wake.is_set()


async def test_a_round_that_all_decline_fails_at_once_and_the_next_asks_again(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    for client in ("a", "b"):
        await decline(coordinator, await coordinator.task("tiny", client))
    await coordinator.driver.step()
    first, second = await coordinator.show("tiny/rounds")
    assert first["phase"] == "failed"
    assert first["reason"] == ("0 updates at the end of the round, 1 needed; 2 clients declined")
    assert second["phase"] == "open"
    assert (await coordinator.task("tiny", "a"))["round_number"] == 2


async def test_whoever_declined_gets_no_task_and_sends_no_update(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    await decline(coordinator, task)
    assert (await coordinator.poll("tiny", "a")).status_code == 204
    refused = await coordinator.put(task, update_bytes(specification, task))
    assert kind_of(refused) == (409, "lease-lost")
    beat = await coordinator.http.post(
        "/v1/federations/tiny/rounds/1/heartbeat",
        json={"attempt": task["attempt"]},
        headers=coordinator.credentials["a"],
    )
    assert kind_of(beat) == (409, "lease-lost")


async def test_declining_again_is_answered_alike_also_after_the_round(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    answers = await asyncio.gather(*(decline(coordinator, task) for _ in range(3)))
    answers.append(await decline(coordinator, task, "another reason"))
    await send_updates(coordinator, specification, "b")
    await coordinator.driver.step()
    answers.append(await decline(coordinator, task))
    assert {(one.status_code, one.text) for one in answers} == {(200, answers[0].text)}


async def test_another_attempt_declines_nothing(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification(lease_seconds=30)
    await coordinator.started(specification, "a")
    first = await coordinator.task("tiny", "a")
    coordinator.clock.advance(31)
    await coordinator.driver.step()
    second = await coordinator.task("tiny", "a")
    assert kind_of(await decline(coordinator, first)) == (409, "lease-lost")
    assert (await decline(coordinator, first)).json()["attempt"] == second["attempt"]
    assert (await coordinator.put(second, update_bytes(specification, second))).status_code == 201


async def test_a_lease_that_ran_out_can_still_be_declined(coordinator: RunningCoordinator) -> None:
    await coordinator.started(tiny_specification(lease_seconds=30), "a", "b")
    task = await coordinator.task("tiny", "a")
    coordinator.clock.advance(31)
    await coordinator.driver.step()
    assert (await decline(coordinator, task)).status_code == 200


async def test_what_is_sent_can_no_longer_be_declined(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    await coordinator.put(task, update_bytes(specification, task))
    assert kind_of(await decline(coordinator, task)) == (409, "lease-lost")
    await send_updates(coordinator, specification, "b")
    await coordinator.driver.step()
    assert kind_of(await decline(coordinator, task)) == (409, "round-closed")


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines", "\x1b[31mred", 5, None])
async def test_a_reason_is_one_short_line_of_text(
    coordinator: RunningCoordinator, reason: Any
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    assert (await decline(coordinator, task, reason)).status_code == 422
    assert (await decline(coordinator, task, "ä" * 200)).status_code == 200


async def test_a_round_that_the_client_is_not_in_cannot_be_declined(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    await coordinator.enrol("tiny", "late")
    assert kind_of(await decline(coordinator, task | {"client": "late"})) == (409, "lease-lost")
    assert kind_of(await decline(coordinator, task | {"round_number": 9}))[0] == 404


@pytest.mark.parametrize("phase", ["joining", "open", "confirming", "unmasking"])
async def test_a_secure_sum_goes_on_without_a_member_that_declines_in_any_phase(
    coordinator: RunningCoordinator, phase: str
) -> None:
    members = await start_protected(coordinator, protected_specification(), "a", "b", "c", "d")
    active = members
    for now in ("joining", "open", "confirming", "unmasking"):
        assert (await coordinator.show("tiny/rounds/1"))["phase"] == now
        if now == phase:
            for one in active[1:]:
                await one.work()
            declined = await decline(coordinator, (await active[0].task()).model_dump(mode="json"))
            assert declined.status_code == 200, declined.text
            active = active[1:]
        else:
            for one in active:
                await one.work()
        await coordinator.driver.step()
    round_ = await coordinator.show("tiny/rounds/1")
    assert round_["phase"] == "committed"
    a = round_["assignments"][0]
    assert (a["state"], a["reason"]) == ("dropped", REASON)
    survivors = members[1:] if phase in ("joining", "open") else members
    response = await coordinator.http.get(
        "/v1/federations/tiny/weights/1", headers=coordinator.admin
    )
    arrays, _ = codec.decode(bytearray(response.content))
    (base,) = members[0].specification.parameters.initial_values().values()
    expected = (base.astype(np.float64) + mean_change(survivors, 1, 4)).astype(np.float32)
    np.testing.assert_array_equal(arrays["hypernetwork.output.bias"], expected)


async def test_who_has_declined_is_asked_for_no_shares_in_a_later_phase(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), "a", "b", "c", "d")
    for one in members[1:]:
        await one.work()
    await decline(coordinator, (await members[0].task()).model_dump(mode="json"))
    for _ in range(3):
        await coordinator.driver.step()
        assert await members[0].poll() is None
        for one in members[1:]:
            await one.work()
