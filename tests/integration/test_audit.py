"""The audit: who did or saw what is written, kept for its time, and grows at nobody's will."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from coordinator.store.tables import AuditRow
from shared.terminal.log_lines import MAX_LINE_BYTES, cut_event, render_json
from tests.support.audit import LOOK, all_events, create_token, events
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.specifications import tiny_specification
from tests.support.sum_members import protected_specification, start_protected
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


async def test_refused_strangers_cannot_fill_the_disk_with_events(
    coordinator: RunningCoordinator,
) -> None:
    for _ in range(300):
        assert (await coordinator.http.get("/v1/federations")).status_code == 401
    assert len(await events(coordinator)) == 100
    coordinator.clock.advance(10)
    await coordinator.http.get("/v1/federations")
    written = await all_events(coordinator)
    assert [(one["action"], one["left_out"]) for one in written[100:]] == [
        (LOOK, 200),
        ("GET /v1/federations", 0),
    ]


@on_sqlite
async def test_a_client_cannot_fill_the_disk_with_events(coordinator: RunningCoordinator) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    before = (await all_events(coordinator))[-1]["id"]
    statuses = [(await coordinator.put(task, body)).status_code for _ in range(150)]
    assert statuses == [201, *[200] * 149]
    written = await events(coordinator, after=before)
    assert len(written) == 100
    coordinator.clock.advance(10)
    assert (await coordinator.put(task, body)).status_code == 200
    assert sum(one["left_out"] for one in await events(coordinator, after=before)) == 50
    for _ in range(150):
        await coordinator.http.get("/v1/federations/tiny", headers=coordinator.admin)
        renamed = await create_token(coordinator, name="one")
        assert renamed
        await coordinator.http.delete("/v1/tokens/one", headers=coordinator.admin)
    changes = [one["action"] for one in await all_events(coordinator, after=before)]
    assert sum("/v1/tokens" in change for change in changes) == 300, (
        "what an administrator changes is always written"
    )


@on_sqlite
async def test_a_secure_sums_messages_leave_no_event_but_refused_ones_do(
    coordinator: RunningCoordinator,
) -> None:
    members = await start_protected(coordinator, protected_specification(), "a", "b", "c")
    before = (await events(coordinator))[-1]["id"]
    task = await members[0].task()
    join = members[0].make(task)
    other = join.replace(b'"generation":1', b'"generation":2')
    answers = [await members[0].send(task, one) for one in (join, other)]
    assert [answer.status_code for answer in answers] == [200, 409]
    written = await events(coordinator, after=before)
    assert [(one["actor"], one["outcome"]) for one in written] == [
        ("client tiny/a", "409 update-conflict")
    ]


@pytest.mark.parametrize("member", ["client", "federation", "encoding"])
async def test_what_a_client_says_at_length_does_not_come_back_at_length(
    coordinator: RunningCoordinator, member: str
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    secret = coordinator.credentials["a"]["Authorization"].removeprefix("Bearer ")
    body = update_bytes(specification, task, **{member: f"{secret} " + "x" * 900_000})
    with structlog.testing.capture_logs() as logs:
        answer = await coordinator.put(task, body)
    assert answer.status_code == 422
    assert len(answer.content) < 2000
    assert secret not in answer.text
    lines = [render_json(None, "", cut_event(None, "", dict(one))) for one in logs]
    assert max(map(len, lines)) <= MAX_LINE_BYTES
    assert secret not in str(lines)
    assert max(len(str(one)) for one in await all_events(coordinator)) < 1000


async def test_events_are_kept_for_the_days_that_are_set(coordinator: RunningCoordinator) -> None:
    await coordinator.create(tiny_specification())
    days = coordinator.context.settings.audit_days
    for age in (days + 1, days - 1):
        at = coordinator.clock() - timedelta(days=age)
        async with coordinator.context.database.writing() as session:
            session.add(
                AuditRow(
                    at=at,
                    actor="x",
                    action=f"{age}",
                    subject="",
                    address="",
                    outcome="",
                    left_out=0,
                )
            )
    await coordinator.driver.step()
    kept = [one["action"] for one in await events(coordinator)]
    assert kept == ["POST /v1/federations", f"{days - 1}"]


async def test_looks_leave_an_event_each_hour_and_downloads_too(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    reader = await create_token(coordinator)
    client = coordinator.credentials["a"]
    paths = {path: f"/v1/federations/tiny{path}" for path in ("", "/rounds", "/weights/0")}

    async def look_around() -> list[tuple[str, str]]:
        before = (await all_events(coordinator))[-1]["id"]
        for _ in range(3):
            for headers in (coordinator.admin, reader, client):
                for path in paths.values():
                    await coordinator.http.get(path, headers=headers)
            await coordinator.poll("tiny", "a")
        seen = await events(coordinator, after=before)
        return [
            (one["actor"].partition(" ")[0], one["action"].removeprefix("GET /v1/federations/"))
            for one in seen
            if one["outcome"] == "200"
        ]

    by_admin = ["{federation_name}", "{federation_name}/rounds", "{federation_name}/weights"]
    first = await look_around()
    assert len(first) == len(set(first))
    assert {(who, what.partition("/{version}")[0]) for who, what in first} == {
        *(("admin", what) for what in by_admin),
        *(("read-only", what) for what in by_admin[:2]),
        ("client", by_admin[2]),
    }
    coordinator.clock.advance(3599)
    assert await look_around() == []
    coordinator.clock.advance(1)
    assert sorted(await look_around()) == sorted(first)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("UPDATE audit_events SET actor = 'x'", "append-only"),
        ("DELETE FROM audit_events", "younger than thirty days"),
    ],
)
async def test_events_are_never_changed(
    coordinator: RunningCoordinator, change: str, refusal: str
) -> None:
    coordinator.clock.now = datetime.now(UTC)  # what is young is the database's to say
    await coordinator.create(tiny_specification())
    before = await events(coordinator)
    assert [event["action"] for event in before] == ["POST /v1/federations"]
    assert before[0]["actor"].startswith("admin file-")
    assert before[0]["subject"] == "federation_name=tiny"
    with pytest.raises(DBAPIError, match=refusal):
        async with coordinator.context.database.writing() as session:
            await session.execute(text(change))
    assert await events(coordinator) == before
    assert await events(coordinator, after=before[-1]["id"]) == []
