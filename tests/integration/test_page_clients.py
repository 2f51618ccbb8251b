"""Clients and tokens on the page: invited, replaced, revoked, and shown their secrets once."""

from __future__ import annotations

import asyncio
import re
import tomllib
from html import unescape

import httpx
import pytest
from alembic import command

from coordinator.operations import client_pages
from coordinator.operations import clients as operations
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.page import Browser, signed_in
from tests.support.rounds import send_updates
from tests.support.schema import go_to
from tests.support.specifications import tiny_specification
from worker.settings import WorkerConfig

pytestmark = pytest.mark.integration

CLIENTS, TOKENS = "/page/federations/tiny/clients", "/page/tokens"


def code(answer: httpx.Response) -> list[str]:
    """What an answer has to be copied."""
    assert answer.status_code == 200, answer.text
    return [unescape(one) for one in re.findall(r"<pre[^>]*><code>(.*?)</code>", answer.text, re.S)]


async def invite(browser: Browser, name: str) -> httpx.Response:
    return await browser.submit(CLIENTS, CLIENTS, name=name)


@on_sqlite
async def test_an_invitation_shows_a_token_once_and_the_sites_file(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    browser = await signed_in(coordinator)
    token, file = code(await invite(browser, "site-a"))
    config = WorkerConfig.model_validate(tomllib.loads(file))
    assert (config.coordinator_url, config.federation) == ("http://coordinator", "tiny")
    assert config.clients[0].name == "site-a"
    enrolled = await operations.enrol(coordinator.context, token, "tiny", "site-a")
    assert enrolled.client == "site-a"
    for path in (CLIENTS, "/page/audit"):
        assert token not in await browser.text(path)
    assert "site-a" in await browser.text(CLIENTS)


@on_sqlite
async def test_a_client_that_is_known_is_not_invited_by_mistake(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    browser = await signed_in(coordinator)
    answer = await invite(browser, "a")
    assert (answer.status_code, "is a client already" in answer.text) == (409, True)
    assert (await coordinator.poll("tiny", "a")).status_code == 204
    for name in ("", "A", "a b", "<b>", "../x", "x" * 64):
        refused = await invite(browser, name)
        assert (refused.status_code, "lower-case letters" in refused.text) == (422, True), name
    listed = await coordinator.show("tiny/clients")
    assert [one["name"] for one in listed] == ["a"]


@on_sqlite
async def test_a_credential_is_replaced_and_a_client_revoked_after_a_question(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    browser = await signed_in(coordinator)
    rotate, revoke = f"{CLIENTS}/a/rotate", f"{CLIENTS}/a/revoke"
    assert "Its credential ends at once" in await browser.text(rotate)
    assert (await coordinator.poll("tiny", "a")).status_code == 204
    token, _ = code(await browser.submit(rotate, rotate))
    assert (await coordinator.poll("tiny", "a")).status_code == 401
    await operations.enrol(coordinator.context, token)
    await coordinator.enrol("tiny", "a")
    answer = await browser.submit(revoke, revoke)
    assert (answer.status_code, answer.headers["location"]) == (303, CLIENTS)
    assert (await coordinator.poll("tiny", "a")).status_code == 401
    assert "revoked" in await browser.text(CLIENTS)
    assert (await browser.get(f"{CLIENTS}/b/revoke")).status_code == 404
    assert (await browser.get(f"{CLIENTS}/a/praise")).status_code == 422


@on_sqlite
async def test_a_token_is_created_shown_once_and_revoked(coordinator: RunningCoordinator) -> None:
    browser = await signed_in(coordinator)
    made = await browser.submit(TOKENS, TOKENS, name="board", scope="read-only", valid_days="30")
    (token,) = code(made)
    reader = await signed_in(coordinator, token)
    listed = await browser.text(TOKENS)
    assert "board" in listed
    assert "in 30 d" in listed
    assert token not in listed
    taken = await browser.submit(TOKENS, TOKENS, name="board", scope="admin")
    assert taken.status_code == 409
    for fields in (
        {"name": "", "scope": "admin"},
        {"name": "x", "scope": "root"},
        {"name": "x", "scope": "admin", "valid_days": "soon"},
        {"name": "x", "scope": "admin", "valid_days": "nan"},
        {"name": "x", "scope": "admin", "valid_days": "-1"},
    ):
        refused = await browser.submit(TOKENS, TOKENS, **fields)
        assert refused.status_code == 422, fields
    revoke = f"{TOKENS}/board/revoke"
    assert "every session that was opened with it ends" in await browser.text(revoke)
    assert (await browser.submit(revoke, revoke)).status_code == 303
    assert (await reader.get(TOKENS)).status_code == 303


async def test_what_a_client_did_is_counted_as_it_comes_and_for_the_time_before(
    coordinator: RunningCoordinator, database_url: str
) -> None:
    specification = tiny_specification(rounds=3, minimum_updates=1)
    await coordinator.started(specification, "a", "b")
    await send_updates(coordinator, specification, "a")
    task = await coordinator.task("tiny", "b")
    for reason in ("no data", "said again"):
        await coordinator.http.put(
            "/v1/federations/tiny/rounds/1/decline",
            params={"attempt": task["attempt"]},
            json={"reason": reason},
            headers=coordinator.credentials["b"],
        )
    await coordinator.driver.step()
    await send_updates(coordinator, specification, "a", "b")
    known = await client_pages.show(coordinator.context, "tiny", 1, 50)
    assert [
        (one.view.name, one.view.updates_recorded, one.num_examples, one.last_reason)
        for one in known.clients
    ] == [("a", 2, 10, None), ("b", 1, 10, "other: no data")]
    await asyncio.to_thread(go_to, database_url, command.downgrade, "0006")
    await asyncio.to_thread(go_to, database_url, command.upgrade, "head")
    assert (await client_pages.show(coordinator.context, "tiny", 1, 50)).clients == known.clients
