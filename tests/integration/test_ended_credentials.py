"""Credentials that end while something is done under them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from coordinator.context import Bell
from tests.support.audit import events
from tests.support.coordinator import RunningCoordinator, small_chunks
from tests.support.rotated_credentials import PREFIX, poll, rotate
from tests.support.rounds import unsealed_blobs
from tests.support.specifications import tiny_specification
from tests.support.statements import Values, after_statement
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


async def revoke(coordinator: RunningCoordinator) -> None:
    gone = await coordinator.http.delete(f"{PREFIX}/clients/a", headers=coordinator.admin)
    assert gone.status_code == 204


async def invite_again(coordinator: RunningCoordinator) -> None:
    invited = await coordinator.http.post(
        f"{PREFIX}/clients", json={"name": "a"}, headers=coordinator.admin
    )
    assert invited.status_code == 201


async def rotate_and_use(coordinator: RunningCoordinator) -> None:
    new = await rotate(coordinator, "a", coordinator.credentials["a"])
    assert await poll(coordinator, new) in (200, 204)


ENDINGS = {"revoked": revoke, "invited again": invite_again, "rotated": rotate_and_use}
every_ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
End = Callable[[RunningCoordinator], Awaitable[None]]


async def put_with_an_end(
    coordinator: RunningCoordinator, task: dict[str, Any], body: bytes, end: End
) -> httpx.Response:
    """An upload in whose middle its client's credential ends."""

    async def in_pieces() -> AsyncIterator[bytes]:
        yield body[:300]
        await end(coordinator)
        yield body[300:]

    return await coordinator.put(task, in_pieces())


@small_chunks
@every_ending
async def test_an_upload_whose_credential_ends_meanwhile_stores_nothing(
    coordinator: RunningCoordinator, end: End
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    refused = await put_with_an_end(coordinator, task, update_bytes(specification, task), end)
    assert refused.status_code == 401, refused.text
    assert refused.json()["type"] == "urn:hyperfl:problem:unauthenticated"
    last = (await events(coordinator))[-1]
    assert (last["actor"], last["outcome"]) == ("client tiny/a", "401 unauthenticated")
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 0
    assert await unsealed_blobs(coordinator) == []


async def test_a_client_that_is_revoked_while_it_repeats_an_upload_gets_no_receipt(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    assert (await coordinator.put(task, body)).status_code == 201
    refused = await put_with_an_end(coordinator, task, body, revoke)
    assert refused.status_code == 401, refused.text
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 1


class WatchedBell(Bell):
    """Says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    def listen(self, key: int) -> asyncio.Event:
        self.heard.set()
        return super().listen(key)


@every_ending
async def test_a_poll_that_waits_while_its_credential_ends_gets_no_task(
    coordinator: RunningCoordinator, end: End
) -> None:
    await coordinator.create(tiny_specification(minimum_updates=2))
    await coordinator.enrol("tiny", "a", "b")
    bell = WatchedBell()
    coordinator.app.state.context = replace(coordinator.context, tasks_bell=bell)
    headers = coordinator.credentials["a"]
    polling = asyncio.create_task(
        coordinator.http.get(f"{PREFIX}/task", params={"wait": 20}, headers=headers)
    )
    await asyncio.wait_for(bell.heard.wait(), 10)
    await end(coordinator)
    if end is not revoke:  # which wakes its client's polls
        await coordinator.act("tiny", "start")
    answer = await asyncio.wait_for(polling, 10)
    assert answer.status_code == 401, answer.text


@every_ending
async def test_work_is_not_leased_under_a_credential_that_has_just_ended(
    coordinator: RunningCoordinator, end: End
) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    offers_found = 0

    async def end_after_the_first(_: Values) -> None:
        nonlocal offers_found
        offers_found += 1
        if offers_found == 1:
            await end(coordinator)

    find_offer = r"^SELECT federations\.state, rounds\."
    with after_statement(coordinator.context.database, find_offer, end_after_the_first):
        answer = await coordinator.poll("tiny", "a")
    assert answer.status_code == 401, answer.text
    [first, _] = (await coordinator.show("tiny/rounds/1"))["assignments"]
    leased_to_the_new_one = end is rotate_and_use
    assert (first["client"], first["attempt"]) == ("a", int(leased_to_the_new_one))
