"""What the page shows of federations, and what can be asked of them there."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from sqlalchemy import update

from coordinator.rounds.reporter import Reporter
from coordinator.store.tables import FederationRow
from shared.tensors.codec import MEDIA_TYPE
from tests.support.audit import create_token, events
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.page import form_fields, signed_in
from tests.support.page_federation import Seeded, seed
from tests.support.rounds import send_updates
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration

TINY = "/page/federations/tiny"


def text_of(page: str) -> str:
    """What a page says, without its markup."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


async def test_a_federation_is_shown_as_it_goes(coordinator: RunningCoordinator) -> None:
    browser = await signed_in(coordinator)
    assert "No federation yet" in await browser.text("/")
    specification = tiny_specification(rounds=3)
    await coordinator.create(specification)
    draft = text_of(await browser.text(TINY))
    assert "tiny draft" in draft
    assert "3 rounds of training." in draft
    await coordinator.enrol("tiny", "a", "b")
    await coordinator.act("tiny", "start")
    await coordinator.driver.step()
    await coordinator.task("tiny", "b")
    coordinator.clock.advance(20)
    await send_updates(coordinator, specification, "a")
    shown = text_of(await browser.text(TINY))
    assert "Of 2 clients 1 have answered, and 1 are awaited." in shown
    assert "b ▸ at work 20 s ago in 1 min 40 s 1" in shown
    await send_updates(coordinator, specification, "b")
    await coordinator.driver.step()
    listed = text_of(await browser.text("/"))
    assert "1 of 3 50.00 % 2 of 2 in 1 h hyperfl" in listed
    page = await browser.text(TINY)
    curves = [json.loads(unescape(one)) for one in re.findall(r'data-curve="([^"]*)"', page)]
    assert {curve["unit"] for curve in curves} == {"share", "bytes", "seconds"}
    assert "round 1" in text_of(page)


async def test_many_clients_and_rounds_come_in_pages(coordinator: RunningCoordinator) -> None:
    await seed(coordinator.context, Seeded(clients=90, rounds=60))
    for _ in range(4):
        await Reporter(coordinator.context).report()
    browser = await signed_in(coordinator)
    page = await browser.text("/page/federations/hospitals?clients=2")
    assert "Clients 41 to 80 of 90" in text_of(page)
    assert page.count('<tr><th scope="row">') == 40
    clients = text_of(await browser.text("/page/federations/hospitals/clients?page=2"))
    assert "Clients 51 to 90 of 90" in clients
    assert "0.1.0 torch 2.14.0" in clients
    rounds = await browser.text("/page/federations/hospitals/rounds")
    older = unescape(re.findall(r'href="([^"]*before=[^"]*)"', rounds)[0])
    assert older == "/page/federations/hospitals/rounds?before=12"
    assert len(re.findall(r'/rounds/\d+"', await browser.text(older))) == 11
    parts = text_of(await browser.text("/page/federations/hospitals/rounds/7"))
    assert "of 90 clients" in parts
    versions = text_of(await browser.text("/page/federations/hospitals/weights?before=2"))
    assert "no longer kept" in versions
    empty = await browser.text("/page/federations/hospitals/clients?page=9")
    assert "none on this page" in empty
    assert (await browser.get("/page/federations/hospitals/rounds/62")).status_code == 404
    assert (await browser.get("/page/federations/nobody")).status_code == 404
    assert (await browser.get("/page/federations/hospitals?clients=0")).status_code == 422


async def test_an_action_says_what_happens_and_then_does_it(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    browser = await signed_in(coordinator)
    for action, state, says in (
        ("pause", "paused", "Round 1 stays open."),
        ("resume", "running", "has its whole time again"),
        ("finish", "finished", "Round 1 fails."),
    ):
        assert f'href="{TINY}/{action}"' in await browser.text(TINY)
        asked = await browser.text(f"{TINY}/{action}")
        assert says in asked
        assert (await coordinator.show("tiny"))["state"] != state, "it only asks"
        answer = await browser.http.post(
            f"{TINY}/{action}", data=form_fields(asked, f"{TINY}/{action}")
        )
        assert (answer.status_code, answer.headers["location"]) == (303, TINY)
        assert (await coordinator.show("tiny"))["state"] == state
    # The form is good for as long as the session, the state no longer for the action.
    again = await browser.http.post(f"{TINY}/finish", data=form_fields(asked, f"{TINY}/finish"))
    assert again.status_code == 409
    assert "federation tiny is finished" in again.text
    assert "is not possible" in await browser.text(f"{TINY}/start")
    changes = [
        (one["action"], one["subject"], one["outcome"])
        for one in await events(coordinator)
        if one["action"].startswith("POST /page/fed")
    ]
    subject = "federation_name=tiny action="
    assert changes == [
        ("POST /page/federations/{federation_name}/{action}", subject + action, outcome)
        for action, outcome in (
            ("pause", "303"),
            ("resume", "303"),
            ("finish", "303"),
            ("finish", "409 illegal-transition"),
        )
    ]


@on_sqlite
async def test_a_reader_sees_everything_but_weights_and_changes_nothing(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    token = (await create_token(coordinator))["Authorization"].removeprefix("Bearer ")
    reader, admin = await signed_in(coordinator, token), await signed_in(coordinator)
    seen = (
        *("/", TINY, f"{TINY}/clients", f"{TINY}/rounds", f"{TINY}/rounds/1", f"{TINY}/weights"),
        *("/page/audit", "/page/tokens", "/page/sessions"),
    )
    for path in seen:
        page = await reader.text(path)
        forms = re.findall(r'<form[^>]*action="([^"]*)"', page)
        assert forms == ["/page/sign-out"], path
        assert not re.findall(r'href="[^"]*/(?:pause|finish|rotate|revoke|weights/\d+)"', page)
    for path in (
        f"{TINY}/pause",
        f"{TINY}/clients/a/revoke",
        f"{TINY}/weights/0",
        "/page/tokens/dashboard/revoke",
    ):
        assert (await admin.get(path)).status_code == 200, path
        assert (await reader.get(path)).status_code == 403, path
    for page, action in (
        (f"{TINY}/pause", f"{TINY}/pause"),
        (f"{TINY}/clients", f"{TINY}/clients"),
        (f"{TINY}/clients/a/revoke", f"{TINY}/clients/a/revoke"),
        (f"{TINY}/clients/a/rotate", f"{TINY}/clients/a/rotate"),
        ("/page/tokens", "/page/tokens"),
    ):
        form = form_fields(await admin.text(page), action)
        assert (await reader.http.post(action, data=form)).status_code == 403, action
    assert (await coordinator.show("tiny"))["state"] == "running"


@on_sqlite
async def test_weights_are_downloaded_by_an_administrator(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    browser = await signed_in(coordinator)
    assert f'href="{TINY}/weights/0"' in await browser.text(f"{TINY}/weights")
    answer = await browser.get(f"{TINY}/weights/0")
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert answer.headers["Content-Disposition"] == 'attachment; filename="tiny-0.safetensors"'
    same = await coordinator.http.get("/v1/federations/tiny/weights/0", headers=coordinator.admin)
    assert answer.content == same.content
    missing = await browser.get(f"{TINY}/weights/7")
    assert (missing.status_code, "no weights of version 7" in missing.text) == (404, True)


@on_sqlite
async def test_what_this_version_cannot_read_is_shown_all_the_same(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    async with coordinator.context.database.writing() as session:
        await session.execute(update(FederationRow).values(specification='{"name": 1}'))
    await coordinator.restart()
    browser = await signed_in(coordinator)
    for path in ("/", TINY, f"{TINY}/clients", f"{TINY}/start"):
        assert (await browser.get(path)).status_code == 200, path
    assert "This coordinator cannot read the specification." in await browser.text(TINY)
