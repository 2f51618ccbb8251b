"""Attacks on who may do what: each is refused by name, and noted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from coordinator.access.credentials import new_token
from coordinator.store.tokens import TokenKind
from tests.support.audit import bearer, create_token, events
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.rotated_credentials import PREFIX, poll, rotate
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


@pytest.fixture
async def coordinator(database_url: str, tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    """On both databases: what SQLite takes as a name or a number PostgreSQL may not."""
    async with running_coordinator(database_url, tmp_path) as running:
        yield running


@pytest.mark.parametrize("kind", TokenKind)
async def test_a_forged_token_is_refused_and_noted(
    coordinator: RunningCoordinator, kind: TokenKind
) -> None:
    forged = new_token(kind)
    answer = await coordinator.http.get("/v1/federations", headers=bearer(forged))
    assert answer.status_code == 401
    last = (await events(coordinator))[-1]
    assert (last["actor"], last["outcome"]) == ("anonymous", "401 unauthenticated")
    assert last["address"] == "127.0.0.1"


async def test_an_almost_right_token_is_refused(coordinator: RunningCoordinator) -> None:
    right = coordinator.admin["Authorization"].removeprefix("Bearer ")
    for wrong in (right[:-1], right + "A", right.swapcase(), right.replace("admin", "client")):
        answer = await coordinator.http.get("/v1/federations", headers=bearer(wrong))
        assert answer.status_code == 401, wrong


async def test_an_expired_token_is_refused(coordinator: RunningCoordinator) -> None:
    reader = await create_token(coordinator, valid_seconds=60)
    assert (await coordinator.http.get("/v1/federations", headers=reader)).status_code == 200
    coordinator.clock.advance(60)
    answer = await coordinator.http.get("/v1/federations", headers=reader)
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


async def test_a_revoked_token_is_refused_at_once(coordinator: RunningCoordinator) -> None:
    other = await create_token(coordinator, name="deputy", scope="admin")
    assert (await coordinator.http.get("/v1/tokens", headers=other)).status_code == 200
    gone = await coordinator.http.delete("/v1/tokens/deputy", headers=coordinator.admin)
    assert gone.status_code == 204
    assert (await coordinator.http.get("/v1/tokens", headers=other)).status_code == 401
    again = await coordinator.http.delete("/v1/tokens/deputy", headers=coordinator.admin)
    assert again.status_code == 404


async def test_an_enrolment_token_that_is_replayed_or_swapped_opens_nothing(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    invited = await coordinator.http.post(
        f"{PREFIX}/clients", json={"name": "a"}, headers=coordinator.admin
    )
    token = invited.json()["enrolment_token"]
    assert (await coordinator.http.get(PREFIX, headers=bearer(token))).status_code == 401
    enrolled = await coordinator.http.post("/v1/enrolments", json={"enrolment_token": token})
    credential = enrolled.json()["credential"]
    assert (await coordinator.http.get(PREFIX, headers=bearer(credential))).status_code == 200
    # A credential or an admin token is no invitation, and one that was used is none any more.
    for other in (token, credential, coordinator.admin["Authorization"][7:]):
        swapped = await coordinator.http.post("/v1/enrolments", json={"enrolment_token": other})
        assert swapped.status_code == 401


async def test_a_client_cannot_write_revoke_or_rotate_as_another(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "b")
    refused = await coordinator.put(task, update_bytes(specification, task), as_client="a")
    assert refused.status_code == 403
    last = (await events(coordinator))[-1]
    assert (last["actor"], last["outcome"]) == ("client tiny/a", "403 forbidden")
    assert "client_name=b" in last["subject"]
    as_a = coordinator.credentials["a"]
    for method, path in [("POST", "clients/b/rotate"), ("DELETE", "clients/b")]:
        answer = await coordinator.http.request(method, f"{PREFIX}/{path}", headers=as_a)
        assert answer.status_code == 403
    assert (await coordinator.put(task, update_bytes(specification, task))).status_code == 201
    last = (await events(coordinator))[-1]
    assert (last["actor"], last["outcome"]) == ("client tiny/b", "201")


async def test_a_read_only_token_changes_nothing_and_gets_no_weights(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    reader = await create_token(coordinator)
    values = {"federation_name": "tiny", "round_number": "1", "client_name": "a"}
    values |= {"version": "0", "token_name": "dashboard"}
    refused = allowed = 0
    for path, methods in coordinator.app.openapi()["paths"].items():
        if not path.startswith("/v1") or path == "/v1/enrolments":
            continue
        for method in methods:
            answer = await coordinator.http.request(
                method, path.format(**values), headers=reader, params={"attempt": 1}, json={}
            )
            if method == "get" and not path.endswith(("/task", "/weights/{version}")):
                assert answer.status_code == 200, (path, answer.text)
                allowed += 1
            else:
                assert answer.status_code == 403, (method, path, answer.text)
                refused += 1
    assert (allowed >= 7, refused >= 10) == (True, True)


async def test_a_rotated_credential_ends_when_the_new_one_is_first_used(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    old = coordinator.credentials["a"]
    lost = await rotate(coordinator, "a", old)
    new = await rotate(coordinator, "a", old)  # the first answer never arrived
    assert await poll(coordinator, old) == 200
    assert await poll(coordinator, lost) == 401
    assert await poll(coordinator, new) == 200
    assert await poll(coordinator, old) == 401
    await coordinator.http.delete(f"{PREFIX}/clients/a", headers=coordinator.admin)
    assert await poll(coordinator, new) == 401


NAMES = {
    "a parent folder": "../tiny",
    "an encoded parent folder": "%2e%2e%2ftiny",
    "an encoded slash": "tiny%2fno%2fsuch%2fplace",
    "a NUL": "tiny%00",
    "a line feed": "tiny%0aevent",
    "an escape": "tiny%1b[31m",
    "no UTF-8": "tiny%ff%fe",
    "a surrogate": "%ed%a0%80",
    "a quotation mark": "tiny'%20OR%20'1'='1",
    "a very long name": "a" * 5000,
    "another alphabet": "tin%D1%83",
    "upper case": "TINY",
}


@on_sqlite
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_a_name_in_a_path_is_a_name_or_refused(
    coordinator: RunningCoordinator, name: str
) -> None:
    await coordinator.create(tiny_specification())
    for method, path in [
        ("GET", f"/v1/federations/{name}"),
        ("PATCH", f"/v1/federations/{name}"),
        ("DELETE", f"{PREFIX}/clients/{name}"),
        ("DELETE", f"/v1/tokens/{name}"),
        ("GET", f"/v1/federations/{name}/weights/0"),
    ]:
        answer = await coordinator.http.request(
            method, path, headers=coordinator.admin, json={"action": "start"}
        )
        assert answer.status_code in (404, 405, 422), (method, path, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    for event in await events(coordinator):
        assert all(len(str(value)) <= 200 for value in event.values())
        assert all(str(value).isprintable() for value in event.values())
    assert (await coordinator.show("tiny"))["state"] == "draft"


async def test_an_encoded_slash_opens_no_way_around_the_permissions(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    as_a = coordinator.credentials["a"]
    for method, path in [
        ("GET", "tiny%2fclients"),
        ("DELETE", "tiny%2fclients%2fb"),
        ("POST", "tiny%2fclients%2fb%2frotate"),
        ("PUT", "tiny%2frounds%2f1%2fupdates%2fb?attempt=1"),
    ]:
        answer = await coordinator.http.request(method, f"/v1/federations/{path}", headers=as_a)
        assert answer.status_code == 403, (method, path, answer.text)


async def test_no_token_is_ever_in_logs_or_events(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification()
    with structlog.testing.capture_logs() as logs:
        await coordinator.started(specification, "a")
        reader = await create_token(coordinator)
        credential = await rotate(coordinator, "a", coordinator.credentials["a"])
        secrets = [
            headers["Authorization"].removeprefix("Bearer ")
            for headers in (coordinator.admin, reader, credential, coordinator.credentials["a"])
        ]
        secrets += [new_token(kind) for kind in TokenKind] + ["an-admin-token-of-ones-own-choice-1"]
        for secret in secrets:
            for path in (f"/v1/federations/{secret}", f"/v1/tokens/{secret}", f"/v1/{secret}"):
                await coordinator.http.delete(path, headers=bearer(secret))
                if secret.startswith("hyperfl-"):  # only its bearer can tell it from a name
                    await coordinator.http.post(path, params={"token": secret}, headers=reader)
                    await coordinator.http.delete(path, headers=coordinator.admin)
    written = str(logs) + str(await events(coordinator))
    assert len(await events(coordinator)) > 20
    assert [secret for secret in secrets if secret in written] == []


async def test_one_tokens_flood_is_stopped_and_hurts_nobody_else(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, requests_per_second_per_token=2.0
    ) as coordinator:
        reader = await create_token(coordinator)
        answers = [await coordinator.http.get("/v1/tokens", headers=reader) for _ in range(23)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [429] * 3
        assert answers[-1].headers["Retry-After"] == "1"
        assert answers[-1].json()["type"] == "urn:hyperfl:problem:too-many-requests"
        assert (
            await coordinator.http.get("/v1/tokens", headers=coordinator.admin)
        ).status_code == 200
        coordinator.clock.advance(0.5)
        again = await coordinator.http.get("/v1/tokens", headers=reader)
        assert again.status_code == 200


async def test_strangers_are_limited_before_known_clients_of_their_address(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(
        database_url, tmp_path, unauthenticated_requests_per_second_per_address=1.0
    ) as coordinator:
        await coordinator.started(tiny_specification(), "a")
        assert await poll(coordinator, coordinator.credentials["a"]) == 200
        statuses = [await poll(coordinator, bearer(new_token(TokenKind.CLIENT))) for _ in range(20)]
        assert statuses[-1] == 429
        assert set(statuses) == {401, 429}
        assert await poll(coordinator, coordinator.credentials["a"]) == 200
        assert (await coordinator.http.get("/healthz")).status_code == 200


async def test_an_address_has_a_limit_of_its_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hyperfl.db'}"
    async with running_coordinator(
        url, tmp_path, requests_per_second_per_address=1.0
    ) as coordinator:
        statuses = [
            (await coordinator.http.get("/v1/tokens", headers=coordinator.admin)).status_code
            for _ in range(12)
        ]
        assert statuses == [200] * 10 + [429] * 2


@pytest.mark.parametrize("attempt", ["0", "-1", str(2**31), str(2**63), "9" * 5000])
async def test_a_heartbeat_with_a_number_that_no_attempt_has_is_refused(
    coordinator: RunningCoordinator, attempt: str
) -> None:
    await coordinator.started(tiny_specification(), "a", "b")
    answer = await coordinator.http.post(
        f"{PREFIX}/rounds/1/heartbeat",
        content=f'{{"attempt": {attempt}}}',
        headers=coordinator.credentials["a"] | {"Content-Type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    assert len(answer.content) < 1000


@on_sqlite
@pytest.mark.parametrize("byte_range", ["0-" + "9" * 5000, "9" * 5000 + "-", "-" + "9" * 5000])
async def test_a_range_of_endless_digits_is_no_range(
    coordinator: RunningCoordinator, byte_range: str
) -> None:
    await coordinator.create(tiny_specification())
    answer = await coordinator.http.get(
        f"{PREFIX}/weights/0", headers=coordinator.admin | {"Range": f"bytes={byte_range}"}
    )
    assert answer.status_code == 200
