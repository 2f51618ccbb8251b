"""Rounds whose updates are summed under masks, through the real coordinator and both databases."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select

from coordinator.context import Context
from coordinator.rounds.driver import Driver
from coordinator.store import rounds as round_store
from coordinator.store.exchange_views import ExchangeViews
from coordinator.store.tables import ExchangeMessageRow, ExchangeShareRow
from shared.rest.schema import RoundPhase
from shared.secure_sum.cards import SiteKeys
from shared.tensors import codec
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.sum_members import (
    SumMember,
    mean_change,
    metadata_of,
    protected_specification,
    start_protected,
)
from tests.support.sum_rounds import everybody, live_phase

pytestmark = pytest.mark.integration

NAMES = ("a", "b", "c", "d")
"""A cohort of 4 has a threshold of 3."""


async def weights(coordinator: RunningCoordinator, version: int) -> Any:
    response = await coordinator.http.get(
        f"/v1/federations/tiny/weights/{version}", headers=coordinator.admin
    )
    arrays, _ = codec.decode(bytearray(response.content))
    return arrays["hypernetwork.output.bias"]


async def check_version(
    coordinator: RunningCoordinator, survivors: list[SumMember], number: int = 1
) -> None:
    change = mean_change(survivors, number, len(NAMES))
    before, after = await weights(coordinator, 0), await weights(coordinator, 1)
    assert (after == (before.astype(np.float64) + change).astype(np.float32)).all()


async def pass_deadline(coordinator: RunningCoordinator) -> None:
    coordinator.clock.advance(3601.0)
    await coordinator.driver.step()


async def test_the_new_weights_are_the_mean_that_nobody_computed_in_the_clear(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for phase in ("joining", "open", "confirming", "unmasking"):
        assert await live_phase(coordinator) == phase
        await everybody(coordinator, *members)
    assert await live_phase(coordinator) == "committed"
    await check_version(coordinator, members)
    round_ = await coordinator.show("tiny/rounds/1")
    accuracies = [one.vector(1, "train", len(NAMES)).counts[5] * 2.0**-24 for one in members]
    assert round_["metrics"]["accuracy_after"] == pytest.approx(np.mean(accuracies))
    for part in round_["assignments"]:
        assert (part["num_examples"], part["metrics"]) == (None, {})


@on_sqlite
@pytest.mark.parametrize("phase", ["joining", "open", "confirming", "unmasking"])
async def test_a_client_that_drops_out_of_any_phase_ends_no_round(
    coordinator: RunningCoordinator, phase: str
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    survivors = members
    for now in ("joining", "open", "confirming", "unmasking"):
        active = survivors
        if now == phase:
            active = survivors[1:]
            if now in ("joining", "open"):
                survivors = active
        for one in active:
            await one.work()
        await coordinator.driver.step()
        if await live_phase(coordinator) == now:
            await pass_deadline(coordinator)
    assert await live_phase(coordinator) == "committed"
    await check_version(coordinator, survivors)
    states = {
        one["client"]: one["state"]
        for one in (await coordinator.show("tiny/rounds/1"))["assignments"]
    }
    assert (states["a"] == "dropped") == (phase in ("joining", "open"))


@on_sqlite
@pytest.mark.parametrize(
    ("phase", "what"),
    [
        ("joining", "2 clients joined at the end of the round, 3 needed"),
        ("open", "2 updates at the end of the round, 3 needed"),
        ("confirming", "2 confirmations at the end of the round, 3 needed"),
        ("unmasking", "2 clients' shares at the end of the round, 3 needed"),
    ],
)
async def test_below_the_threshold_the_round_fails_and_the_next_begins_with_new_keys(
    coordinator: RunningCoordinator, phase: str, what: str
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for now in ("joining", "open", "confirming", "unmasking"):
        active = members[:2] if now == phase else members
        for one in active:
            await one.work()
        if now == phase:
            break
        await coordinator.driver.step()
    await pass_deadline(coordinator)
    failed = await coordinator.show("tiny/rounds/1")
    assert (failed["phase"], failed["reason"]) == ("failed", what)
    first = {one.name: one.state.newest and one.state.newest.join.member for one in members}
    for _ in range(4):
        await everybody(coordinator, *members)
    assert await live_phase(coordinator, 2) == "committed"
    assert all(first[one.name] != one.newest.join.member for one in members)
    change = mean_change(members, 2, len(NAMES))
    base = await weights(coordinator, 0)
    assert (await weights(coordinator, 1) == (base + change).astype(np.float32)).all()


async def test_what_was_exchanged_is_deleted_with_the_round(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(rounds=1), *NAMES)
    for _ in range(3):
        await everybody(coordinator, *members)
    assert await _rows(coordinator) == (8, 16)
    await everybody(coordinator, *members)
    await coordinator.driver.step()
    assert await _rows(coordinator) == (0, 0)
    assert (await coordinator.show("tiny"))["state"] == "finished"


async def _rows(coordinator: RunningCoordinator) -> tuple[int, int]:
    async with coordinator.context.database.reading() as session:
        messages = await session.scalar(select(func.count()).select_from(ExchangeMessageRow))
        shares = await session.scalar(select(func.count()).select_from(ExchangeShareRow))
    return int(messages or 0), int(shares or 0)


async def test_the_final_evaluation_shows_the_cohorts_mean_and_no_clients_own(
    coordinator: RunningCoordinator,
) -> None:
    specification = protected_specification(rounds=1, evaluate_final=True)
    members = await start_protected(coordinator, specification, *NAMES)
    for _ in range(8):
        await everybody(coordinator, *members)
    round_ = await coordinator.show("tiny/rounds/2")
    assert (round_["kind"], round_["phase"]) == ("evaluate", "committed")
    own = [one.vector(2, "evaluate", len(NAMES)).counts[3] * 2.0**-24 for one in members]
    assert round_["metrics"]["accuracy"] == pytest.approx(np.mean(own))
    assert all(part["metrics"] == {} for part in round_["assignments"])


@on_sqlite
async def test_every_message_may_be_sent_again_and_no_other_in_its_place(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for _ in range(4):
        kept = []
        for one in members:
            task = await one.task()
            body = one.make(task)
            first, again = await one.send(task, body), await one.send(task, body)
            assert first.is_success, first.text
            assert first.json() == again.json()
            kept.append((one, task, body))
        (one, task, _), (_, _, other) = kept[0], kept[1]
        changed = await one.send(task, other)
        assert changed.status_code in (409, 422), changed.text
        await coordinator.driver.step()
    assert await live_phase(coordinator) == "committed"


async def test_a_message_that_comes_twice_at_once_is_recorded_once(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for _ in range(4):
        for one in members:
            task = await one.task()
            body = one.make(task)
            answers = await asyncio.gather(*(one.send(task, body) for _ in range(3)))
            assert all(answer.is_success for answer in answers), [one.text for one in answers]
            assert len({answer.text for answer in answers}) == 1
        await coordinator.driver.step()
    assert await live_phase(coordinator) == "committed"


@on_sqlite
async def test_shares_that_the_sender_did_not_seal_are_refused_and_named(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for _ in range(3):
        await everybody(coordinator, *members)
    task = await members[0].task()
    message = json.loads(members[0].make(task))
    message["shares"]["b"] = message["shares"]["c"]
    response = await members[0].send(task, json.dumps(message).encode())
    assert response.status_code == 422
    assert "share of client b's seed is not the one that it sealed" in response.json()["detail"]


@on_sqlite
async def test_a_card_of_another_client_or_federation_is_refused(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for federation, client in (("tiny", "b"), ("other", "a")):
        card = SiteKeys.generate().card(federation, client)
        response = await coordinator.http.put(
            "/v1/federations/tiny/cards/a",
            json=card.model_dump(),
            headers=coordinator.credentials["a"],
        )
        assert response.status_code == 422, response.text
    forged = members[0].member.card.model_dump() | {"share_key": card.share_key}
    response = await coordinator.http.put(
        "/v1/federations/tiny/cards/a", json=forged, headers=coordinator.credentials["a"]
    )
    assert response.status_code == 422
    assert "not signed by its identity" in response.json()["detail"]


@on_sqlite
async def send_claiming(
    coordinator: RunningCoordinator, claims: dict[str, Any]
) -> tuple[list[SumMember], httpx.Response]:
    """The members, and what the first is answered whose update says more than its masks."""
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    await everybody(coordinator, *members)
    task = await members[0].task()
    body = members[0].make(task)
    arrays, _ = codec.decode(bytearray(body))
    metadata = json.dumps(json.loads(metadata_of(body)) | claims)
    return members, await members[0].send(task, codec.encode(arrays, {"hyperfl": metadata}))


@on_sqlite
@pytest.mark.parametrize(
    ("claims", "refusal"),
    [
        ({"encoding": "dense"}, "must have encoding masked and num_examples 1"),
        ({"num_examples": 20}, "must have encoding masked and num_examples 1"),
        ({"metrics": {"values_cut": 5}}, "may have no metric but accuracy_before, .*values_cut"),
    ],
)
async def test_an_update_that_says_more_than_the_sum_is_refused(
    coordinator: RunningCoordinator, claims: dict[str, Any], refusal: str
) -> None:
    _, response = await send_claiming(coordinator, claims)
    assert response.status_code == 422
    assert re.search(refusal, response.json()["detail"])


@on_sqlite
async def test_a_member_may_show_its_own_metrics_and_the_rounds_are_the_sums(
    coordinator: RunningCoordinator,
) -> None:
    members, response = await send_claiming(coordinator, {"metrics": {"accuracy_after": 0.75}})
    assert response.status_code == 201
    await everybody(coordinator, *members[1:])
    for _ in range(2):
        await everybody(coordinator, *members)
    round_ = await coordinator.show("tiny/rounds/1")
    own = {part["client"]: part["metrics"] for part in round_["assignments"]}
    assert own == {"a": {"accuracy_after": 0.75}, "b": {}, "c": {}, "d": {}}
    accuracies = [one.vector(1, "train", len(NAMES)).counts[5] * 2.0**-24 for one in members]
    assert round_["metrics"]["accuracy_after"] == pytest.approx(np.mean(accuracies))


@on_sqlite
async def test_nobody_but_a_member_is_shown_an_exchange(coordinator: RunningCoordinator) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    await coordinator.enrol("tiny", "late")
    sealed: list[str] = []
    for _ in range(4):
        assert (await coordinator.poll("tiny", "late")).status_code == 204
        for one in members:
            task = await one.task()
            assert task.exchange is not None
            sealed += task.exchange.sealed.values()
            await one.work()
        await coordinator.driver.step()
    assert len(set(sealed)) == len(sealed) == len(NAMES) ** 2


@on_sqlite
async def test_what_a_phase_shows_is_read_only_while_it_lasts(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    context = coordinator.context
    async with context.database.reading() as session:
        (joining,) = await round_store.list_numbered(session, 1, 1, 10)
    for phase in (RoundPhase.JOINING, RoundPhase.OPEN):
        shown = await ExchangeViews().shown(context.database, joining, phase)
        assert (shown is not None) == (phase is RoundPhase.JOINING)
    await everybody(coordinator, *members)
    assert await ExchangeViews().shown(context.database, joining, RoundPhase.JOINING) is None


async def test_two_coordinators_move_one_round_together(
    coordinator: RunningCoordinator, replica_context: Context
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    other = Driver(replica_context)
    for _ in range(2):
        for one in members:
            await one.work()
        await other.step()
        for one in members:
            await one.work()
        await coordinator.driver.step()
    assert await live_phase(coordinator) == "committed"
    await check_version(coordinator, members)


async def test_a_coordinator_that_is_restarted_in_every_phase_goes_on(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    for _ in range(4):
        for one in members[:2]:
            await one.work()
        await coordinator.restart()
        for one in members[2:]:
            await one.work()
        await coordinator.driver.step()
    assert await live_phase(coordinator) == "committed"
    await check_version(coordinator, members)


@on_sqlite
async def test_a_pause_gives_the_phase_its_whole_time_again(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), *NAMES)
    await coordinator.act("tiny", "pause")
    coordinator.clock.advance(1000.0)
    await coordinator.act("tiny", "resume")
    coordinator.clock.advance(59.0)
    await coordinator.driver.step()
    for _ in range(4):
        await everybody(coordinator, *members)
    assert await live_phase(coordinator) == "committed"


@on_sqlite
async def test_clients_without_cards_are_waited_for(coordinator: RunningCoordinator) -> None:
    specification = protected_specification()
    members = await start_protected(coordinator, specification, *NAMES[:2])
    await coordinator.enrol("tiny", "c")
    await coordinator.driver.step()
    assert (await coordinator.show("tiny"))["reason"] == (
        "waiting for 1 more clients to enrol, to show their cards and to ask for work"
    )
    late = SumMember(coordinator, specification, "c")
    await late.show_card()
    await coordinator.driver.step()
    assert await live_phase(coordinator) == "joining"
    for _ in range(4):
        await everybody(coordinator, *members, late)
    assert await live_phase(coordinator) == "committed"
