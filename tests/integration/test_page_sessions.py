"""Signing in to the page: who may, for how long, and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from coordinator.operations.sessions import MOST_PER_TOKEN
from coordinator.store.tables import SessionRow
from shared.rest.problems import MEDIA_TYPE
from tests.support.audit import create_token, events
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.page import SIGN_IN, form_fields, new_browser, signed_in
from tests.support.specifications import tiny_specification

pytestmark = pytest.mark.integration

PAGE = "/page/sessions"


def secret_of(header: str) -> str:
    return header.removeprefix("Bearer ")


async def test_a_session_lasts_as_long_as_the_settings_say(coordinator: RunningCoordinator) -> None:
    browser = await signed_in(coordinator)
    lasts = coordinator.context.settings.page_session_seconds
    coordinator.clock.advance(lasts - 1)
    assert (await browser.get(PAGE)).status_code == 200
    coordinator.clock.advance(1)
    answer = await browser.get(f"{PAGE}?a=b")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{SIGN_IN}?next=/page/sessions%3Fa%3Db"


async def test_a_session_ends_at_once_with_its_token(coordinator: RunningCoordinator) -> None:
    reader = await create_token(coordinator)
    browser = await signed_in(coordinator, secret_of(reader["Authorization"]))
    other = await signed_in(coordinator)
    assert (await browser.get(PAGE)).status_code == 200
    await coordinator.http.delete("/v1/tokens/dashboard", headers=coordinator.admin)
    assert (await browser.get(PAGE)).status_code == 303
    assert (await other.get(PAGE)).status_code == 200
    async with coordinator.context.database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(SessionRow)) == 1


async def test_a_session_ends_when_its_token_expires(coordinator: RunningCoordinator) -> None:
    reader = await create_token(coordinator, valid_seconds=60.0)
    browser = await signed_in(coordinator, secret_of(reader["Authorization"]))
    coordinator.clock.advance(60)
    assert (await browser.get(PAGE)).status_code == 303
    assert (await browser.sign_in(secret_of(reader["Authorization"]))).status_code == 401


async def test_a_session_is_listed_and_ended_by_an_administrator(
    coordinator: RunningCoordinator,
) -> None:
    reader = await create_token(coordinator)
    theirs = await signed_in(coordinator, secret_of(reader["Authorization"]))
    mine = await signed_in(coordinator)
    assert "dashboard" in await mine.text(PAGE)
    assert f"{PAGE}/1/end" not in await theirs.text(PAGE)
    answer = await mine.submit(PAGE, f"{PAGE}/1/end")
    assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    assert (await theirs.get(PAGE)).status_code == 303
    assert "dashboard" not in await mine.text(PAGE)
    form = form_fields(await mine.text(PAGE), "/page/sign-out")
    assert (await mine.http.post("/page/sign-out", data=form)).status_code == 303
    assert (await mine.get(PAGE)).status_code == 303


async def test_one_token_has_so_many_sessions_at_most(coordinator: RunningCoordinator) -> None:
    reader = secret_of((await create_token(coordinator))["Authorization"])
    first = await signed_in(coordinator, reader)
    for _ in range(MOST_PER_TOKEN):
        last = await signed_in(coordinator, reader)
    assert (await first.get(PAGE)).status_code == 303
    assert (await last.get(PAGE)).status_code == 200


@on_sqlite
async def test_a_session_is_kept_as_a_hash_in_a_cookie_that_scripts_do_not_see(
    coordinator: RunningCoordinator,
) -> None:
    browser = new_browser(coordinator)
    answer = await browser.sign_in(secret_of(coordinator.admin["Authorization"]))
    name, _, rest = answer.headers["set-cookie"].partition("=")
    secret, *attributes = rest.split("; ")
    assert name == "hyperfl-session"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    async with coordinator.context.database.reading() as session:
        digest = (await session.scalars(select(SessionRow.digest))).one()
    assert len(digest) == 64
    assert secret not in digest
    # It is the page's, and no token of the interface.
    cookies = {"Cookie": f"hyperfl-session={secret}"}
    assert (await coordinator.http.get("/v1/federations", headers=cookies)).status_code == 401
    bearer = {"Authorization": f"Bearer {secret}"}
    assert (await coordinator.http.get("/v1/federations", headers=bearer)).status_code == 401


@pytest.mark.parametrize("scheme", ["https", "http"])
@on_sqlite
async def test_over_tls_the_cookie_is_sent_over_tls_alone(
    database_url: str, tmp_path: Path, scheme: str
) -> None:
    behind = {"plaintext": "behind-proxy"} if scheme == "http" else {}
    async with running_coordinator(database_url, tmp_path, **behind) as coordinator:
        browser = new_browser(coordinator, f"{scheme}://fl.example.org")
        answer = await browser.sign_in(secret_of(coordinator.admin["Authorization"]))
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-hyperfl-session=")
        assert "; Secure" in cookie
        # Another host of the domain, or a plain connection, could have put this one there.
        secret = cookie.partition("=")[2].partition(";")[0]
        other = new_browser(coordinator, f"{scheme}://fl.example.org")
        assert (await other.get(PAGE, Cookie=f"hyperfl-session={secret}")).status_code == 303
        kept = {"Cookie": f"__Host-hyperfl-session={secret}"}
        assert (await other.get(PAGE, **kept)).status_code == 200


@on_sqlite
async def test_a_wrong_method_is_answered_to_a_browser_as_a_page(
    coordinator: RunningCoordinator,
) -> None:
    answer = await coordinator.http.put("/page/sessions")
    assert answer.status_code == 405
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "<h1" in answer.text
    interface = await coordinator.http.put("/v1/federations")
    assert (interface.status_code, interface.headers["Content-Type"]) == (405, MEDIA_TYPE)


@on_sqlite
async def test_a_wrong_token_is_one_plain_line_an_event_and_limited(
    database_url: str, tmp_path: Path
) -> None:
    limit = {"unauthenticated_requests_per_second_per_address": 0.5}
    async with running_coordinator(database_url, tmp_path, **limit) as coordinator:
        browser = new_browser(coordinator)
        statuses = []
        for token in ("hyperfl-admin-nobody", "", "x" * 500, "å", "hyperfl-client-x"):
            answer = await browser.sign_in(token)
            statuses.append(answer.status_code)
            assert "Not signed in: the token is not valid." in answer.text
            assert "set-cookie" not in answer.headers
        assert statuses == [401] * 5
        answer = await browser.sign_in("hyperfl-admin-nobody")
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "try again in" in answer.text
        refused = await coordinator.http.post("/v1/enrolments", json={})
        assert refused.status_code == 429
        assert refused.headers["Content-Type"] == MEDIA_TYPE, "the interface answers as it did"
        coordinator.clock.advance(60)
        written = await events(coordinator)
    assert [(one["actor"], one["action"], one["outcome"]) for one in written[:5]] == [
        ("anonymous", "POST /page/sign-in", "401 unauthenticated")
    ] * 5
    assert written[5]["outcome"].startswith("429")
    assert "hyperfl-admin-nobody" not in str(written)


@on_sqlite
async def test_a_clients_credential_opens_no_session(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    credential = secret_of(coordinator.credentials["a"]["Authorization"])
    assert (await new_browser(coordinator).sign_in(credential)).status_code == 401


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/page/..//evil", "/v1/tokens"],
)
@on_sqlite
async def test_a_sign_in_leads_to_no_other_place(
    coordinator: RunningCoordinator, target: str
) -> None:
    token = secret_of(coordinator.admin["Authorization"])
    answer = await new_browser(coordinator).sign_in(token, next=target)
    assert answer.headers["location"] == "/"
    answer = await new_browser(coordinator).sign_in(token, next="/page/sessions?a=1")
    assert answer.headers["location"] == "/page/sessions?a=1"


@on_sqlite
async def test_a_session_has_the_rate_of_a_token(database_url: str, tmp_path: Path) -> None:
    limits = {
        "requests_per_second_per_token": 0.5,
        "unauthenticated_requests_per_second_per_address": 0.5,
    }
    async with running_coordinator(database_url, tmp_path, **limits) as coordinator:
        browser = await signed_in(coordinator)
        answers = [(await browser.get(PAGE)).status_code for _ in range(6)]
        assert answers == [200] * 5 + [429]
        # Whoever signs in meanwhile is counted for themselves.
        assert (await new_browser(coordinator).get(SIGN_IN)).status_code == 200
