"""Who may do what."""

from __future__ import annotations

import stat

import pytest
from sqlalchemy import select

from coordinator.access.credentials import token_digest
from coordinator.operations import clients
from coordinator.store import clients as client_store
from coordinator.store import tokens as token_store
from coordinator.store.tables import TokenRow
from coordinator.store.tokens import TokenKind
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

OPEN_PATHS = {"/healthz", "/readyz", "/v1/enrolments"}


async def test_without_a_valid_token_everything_but_health_is_401(
    coordinator: RunningCoordinator,
) -> None:
    values = {
        "federation_name": "tiny",
        "round_number": "1",
        "version": "0",
        "client_name": "a",
    } | {"token_name": "t"}
    checked = 0
    for path, methods in coordinator.app.openapi()["paths"].items():
        if path in OPEN_PATHS:
            continue
        for method in methods:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic YTpi"},
                {"Authorization": "Bearer "},
            ):
                response = await coordinator.http.request(
                    method, path.format(**values) + "?attempt=1", headers=headers, json={}
                )
                assert response.status_code == 401, (method, path, response.text)
                assert response.headers["WWW-Authenticate"] == "Bearer"
                checked += 1
    assert checked >= 40
    assert (await coordinator.http.get("/healthz")).status_code == 200
    assert (await coordinator.http.get("/readyz")).status_code == 200


async def test_clients_cannot_act_as_another_or_as_administrators(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    assert (await coordinator.put(task, body, as_client="b")).status_code == 403
    as_client = coordinator.credentials["a"]
    for method, path in [
        ("GET", "/v1/federations"),
        ("PATCH", "/v1/federations/tiny"),
        ("GET", "/v1/federations/tiny/clients"),
        ("DELETE", "/v1/federations/tiny/clients/b"),
        ("GET", "/v1/federations/tiny/rounds"),
    ]:
        response = await coordinator.http.request(
            method, path, headers=as_client, json={"action": "pause"}
        )
        assert response.status_code == 403, (method, path)
    # An administrator is no client, and a client of one federation none of another.
    as_admin = await coordinator.http.get("/v1/federations/tiny/task", headers=coordinator.admin)
    assert as_admin.status_code == 403
    await coordinator.create(tiny_specification("other"))
    other = await coordinator.http.get("/v1/federations/other/weights/0", headers=as_client)
    assert other.status_code == 403


async def test_unknown_things_are_404(coordinator: RunningCoordinator) -> None:
    for path in ("nowhere", "nowhere/rounds", "nowhere/clients", "nowhere/weights/0"):
        response = await coordinator.http.get(f"/v1/federations/{path}", headers=coordinator.admin)
        assert response.status_code == 404, path
        assert response.json()["type"] == "urn:hyperfl:problem:not-found"


async def test_an_enrolment_may_be_repeated_until_its_credential_is_used(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    body = {"enrolment_token": await coordinator.invite("tiny", "a")}

    async def enrol() -> dict[str, str]:
        answer = await coordinator.http.post("/v1/enrolments", json=body)
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {answer.json()['credential']}"}

    async def state() -> tuple[str, int]:
        [client] = await coordinator.show("tiny/clients")
        return client["state"], (await coordinator.show("tiny"))["clients_enrolled"]

    async def use(credential: dict[str, str]) -> int:
        return (await coordinator.http.get("/v1/federations/tiny", headers=credential)).status_code

    lost = await enrol()
    assert await state() == ("invited", 0), "an answer that was lost enrols nobody"
    kept = await enrol()
    assert await use(lost) == 401, "only the last answer counts"
    assert await use(kept) == 200
    assert await state() == ("enrolled", 1)
    assert (await coordinator.http.post("/v1/enrolments", json=body)).status_code == 401


async def test_a_credential_that_was_replaced_as_it_is_first_used_is_not_its_successor(
    coordinator: RunningCoordinator,
) -> None:
    """SQLite gives the successor the id of the row that it replaces."""
    await coordinator.create(tiny_specification())
    token = await coordinator.invite("tiny", "a")
    first = await clients.enrol(coordinator.context, token)
    database = coordinator.context.database
    async with database.reading() as session:
        owner = await token_store.find_token(
            session, token_digest(first.credential), TokenKind.CLIENT
        )
    assert owner is not None
    assert owner.client is not None
    await clients.enrol(coordinator.context, token)
    async with database.writing() as session:
        now = coordinator.clock()
        assert not await client_store.begin_to_use(session, owner.client.id, owner.token, now)


async def test_an_enrolment_token_ends_when_it_is_replaced_or_expires(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())

    async def invite() -> str:
        response = await coordinator.http.post(
            "/v1/federations/tiny/clients", json={"name": "a"}, headers=coordinator.admin
        )
        token: str = response.json()["enrolment_token"]
        return token

    async def enrol(token: str) -> int:
        response = await coordinator.http.post("/v1/enrolments", json={"enrolment_token": token})
        return response.status_code

    replaced, fresh = await invite(), await invite()
    assert [await enrol(replaced), await enrol(fresh)] == [401, 201]
    late = await invite()
    coordinator.clock.advance(8 * 86400)
    assert await enrol(late) == 401


async def test_inviting_again_ends_the_old_credential(coordinator: RunningCoordinator) -> None:
    await coordinator.started(tiny_specification(), "a")
    old = coordinator.credentials["a"]
    await coordinator.enrol("tiny", "a")
    response = await coordinator.http.get("/v1/federations/tiny/task", headers=old)
    assert response.status_code == 401
    assert (await coordinator.poll("tiny", "a")).status_code == 200


async def test_tokens_are_stored_as_hashes_only(coordinator: RunningCoordinator) -> None:
    await coordinator.started(tiny_specification(), "a")
    file = coordinator.context.settings.effective_admin_token_file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secrets = {file.read_text().strip(), coordinator.credentials["a"]["Authorization"][7:]}
    assert all(len(secret.rsplit("-", 1)[-1]) >= 1 and len(secret) >= 43 for secret in secrets)
    async with coordinator.context.database.reading() as session:
        digests = set((await session.scalars(select(TokenRow.digest))).all())
    assert len(digests) == 2
    assert not digests & secrets
    assert all(len(digest) == 64 for digest in digests)


async def test_a_name_can_be_taken_only_once(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    response = await coordinator.http.post(
        "/v1/federations",
        content=tiny_specification().model_dump_json(),
        headers=coordinator.admin | {"Content-Type": "application/json"},
    )
    assert response.status_code == 409
    assert response.json()["type"] == "urn:hyperfl:problem:name-taken"


@pytest.mark.parametrize(
    "meant", [{"client": "b"}, {"federation": "other"}, {"federation": "tiny"}]
)
async def test_a_token_is_spent_by_the_client_that_it_was_made_for_alone(
    coordinator: RunningCoordinator, meant: dict[str, str]
) -> None:
    await coordinator.create(tiny_specification())
    token = await coordinator.invite("tiny", "a")
    answer = await coordinator.http.post("/v1/enrolments", json={"enrolment_token": token} | meant)
    if meant == {"federation": "tiny"}:
        assert answer.status_code == 201
        return
    assert answer.status_code == 403
    assert answer.json()["detail"] == "the enrolment token belongs to client a of federation tiny"
    right = {"enrolment_token": token, "federation": "tiny", "client": "a"}
    assert (await coordinator.http.post("/v1/enrolments", json=right)).status_code == 201
