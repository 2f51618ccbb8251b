"""What a hostile page, form or frame can do to the coordinator's page: nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordinator.page.asset_files import ASSETS, assets
from tests.support.audit import bearer, create_token, events
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.page import SIGN_IN, Browser, form_fields, new_browser, signed_in

pytestmark = [pytest.mark.integration, on_sqlite]

SESSIONS, SIGN_OUT = "/page/sessions", "/page/sign-out"


def token_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


async def is_signed_in(browser: Browser) -> bool:
    return (await browser.get(SESSIONS)).status_code == 200


async def test_a_form_that_is_not_of_the_session_does_nothing(
    coordinator: RunningCoordinator,
) -> None:
    mine, other = await signed_in(coordinator), await signed_in(coordinator)
    own = form_fields(await mine.text(SESSIONS), SIGN_OUT)["form_token"]
    foreign = form_fields(await other.text(SESSIONS), SIGN_OUT)["form_token"]
    for_another_action = form_fields(await mine.text(SESSIONS), f"{SESSIONS}/2/end")["form_token"]
    for forged in (foreign, for_another_action, own.upper(), "", "å"):
        answer = await mine.http.post(SIGN_OUT, data={"form_token": forged})
        assert answer.status_code == 403, forged
        assert "not of your session" in answer.text
    assert await is_signed_in(mine)
    refused = [one for one in await events(coordinator) if one["outcome"] == "403 forbidden"]
    assert {(one["actor"].partition(" ")[0], one["action"]) for one in refused} == {
        ("admin", f"POST {SIGN_OUT}")
    }
    assert (await mine.http.post(SIGN_OUT, data={"form_token": own})).status_code == 303
    # It was good once; with the session it has ended.
    assert (await mine.http.post(SIGN_OUT, data={"form_token": own})).status_code == 401
    assert await is_signed_in(other)


async def test_a_form_that_another_site_sends_does_nothing(coordinator: RunningCoordinator) -> None:
    mine = await signed_in(coordinator)
    own = form_fields(await mine.text(SESSIONS), SIGN_OUT)
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site}
        assert (await mine.http.post(SIGN_OUT, data=own, headers=headers)).status_code == 403
        sent = {"token": token_of(coordinator.admin)}
        answer = await new_browser(coordinator).http.post(SIGN_IN, data=sent, headers=headers)
        assert answer.status_code == 403, "nobody is signed in under a token of another's choice"
    assert (await mine.http.post(SIGN_OUT, json=own)).status_code == 415
    assert (await mine.http.post(SIGN_OUT, content=b"x" * 100_000)).status_code in (413, 415)
    assert await is_signed_in(mine)


async def test_a_reader_changes_nothing(coordinator: RunningCoordinator) -> None:
    reader = await signed_in(coordinator, token_of(await create_token(coordinator)))
    mine = await signed_in(coordinator)
    own = form_fields(await reader.text(SESSIONS), SIGN_OUT)
    answer = await reader.http.post(f"{SESSIONS}/2/end", data=own)
    assert (answer.status_code, "read-only" in answer.text) == (403, True)
    assert await is_signed_in(mine)


async def test_every_answer_has_strict_headers(coordinator: RunningCoordinator) -> None:
    browser = await signed_in(coordinator)
    stranger = new_browser(coordinator)
    answers = [
        await browser.get(SESSIONS),
        await browser.get("/page/nothing"),
        await browser.http.post(SIGN_OUT, data={"form_token": ""}),
        await stranger.get(SIGN_IN),
        await stranger.get(SESSIONS),
        await stranger.sign_in("x"),
    ]
    assert [one.status_code for one in answers] == [200, 404, 403, 200, 303, 401]
    for answer in answers:
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert "unsafe" not in str(policy)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_look_without_a_session_is_led_to_the_sign_in(
    coordinator: RunningCoordinator,
) -> None:
    stranger = new_browser(coordinator)
    answer = await stranger.get(SESSIONS)
    assert answer.headers["location"] == f"{SIGN_IN}?next={SESSIONS}"
    form = await stranger.text(answer.headers["location"])
    assert form_fields(form, SIGN_IN)["next"] == SESSIONS
    hostile = await stranger.text(f'{SIGN_IN}?next="><script>alert(1)</script>')
    assert "<script>alert" not in hostile
    assert await events(coordinator) == [], "strangers that only look leave no event"
    # What updates itself is told so instead.
    assert (await stranger.get(SESSIONS, **{"HX-Request": "true"})).status_code == 401


async def test_what_somebody_looks_at_is_written_each_hour(coordinator: RunningCoordinator) -> None:
    browser = await signed_in(coordinator)
    for _ in range(3):
        await browser.text(SESSIONS)
    looks = [one for one in await events(coordinator) if one["action"] == f"GET {SESSIONS}"]
    assert [(one["actor"].partition(" ")[0], one["outcome"]) for one in looks] == [("admin", "200")]


async def test_the_page_can_be_left_out(database_url: str, tmp_path: Path) -> None:
    async with running_coordinator(database_url, tmp_path, page=False) as coordinator:
        for path in ("/", SIGN_IN, SESSIONS, "/page/assets/page.css"):
            assert (await coordinator.http.get(path)).status_code == 404
        answer = await coordinator.http.post(SIGN_IN, data={"token": token_of(coordinator.admin)})
        assert answer.status_code == 404


async def test_no_token_of_the_interface_opens_the_page_by_itself(
    coordinator: RunningCoordinator,
) -> None:
    answer = await coordinator.http.get(SESSIONS, headers=bearer(token_of(coordinator.admin)))
    assert answer.status_code == 303


async def test_assets_come_from_here_and_every_one_is_kept_with_its_licence(
    coordinator: RunningCoordinator,
) -> None:
    browser = await signed_in(coordinator)
    text = await browser.text(SESSIONS)
    addresses = re.findall(r'(?:src|href)="(/page/assets/[^"]+)"', text)
    assert len(addresses) >= 3
    for address in addresses:
        answer = await new_browser(coordinator).get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["Cache-Control"]
    assert not re.findall(r'(?:src|href|action)="(?!/|#)[^"]*"', text), "nothing from elsewhere"
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for name in ("../pyproject.toml", "..%2fpage.css", "uPlot.LICENSE.txt"):
        assert (await browser.get(f"/page/assets/{name}")).status_code == 404
    foreign = {name.partition(".")[0] for name in assets() if ".min." in name}
    assert foreign == {"htmx", "uPlot"}
    assert all((ASSETS / f"{name}.LICENSE.txt").exists() for name in foreign)
