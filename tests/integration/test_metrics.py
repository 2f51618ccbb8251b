"""What /metrics says of requests, rounds and the database, and whom it tells."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.exposition import Samples, label_names, samples
from tests.support.specifications import tiny_specification
from tests.support.statements import before_statement, failing
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

UPDATES = "/v1/federations/{federation_name}/rounds/{round_number}/updates/{client_name}"
TASK = "/v1/federations/{federation_name}/task"


async def scrape(coordinator: RunningCoordinator) -> Samples:
    answer = await coordinator.http.get("/metrics", headers=coordinator.admin)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    coordinator.clock.advance(1)  # what the database said is shared for so long
    return samples(answer.text)


async def test_live_rounds_and_assignments_are_those_of_the_database(
    coordinator: RunningCoordinator,
) -> None:
    idle = await scrape(coordinator)
    assert set(idle["hyperfl_live_rounds"].values()) == {0}
    assert idle["hyperfl_oldest_live_round_age_seconds"] == {(): 0}
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    coordinator.clock.advance(7)
    found = await scrape(coordinator)
    assert found["hyperfl_federations"][("running",)] == 1
    assert found["hyperfl_live_rounds"][("open",)] == 1
    assert sum(found["hyperfl_live_rounds"].values()) == 1
    assert found["hyperfl_oldest_live_round_age_seconds"] == {(): 7}
    assert found["hyperfl_longest_overdue_round_seconds"] == {(): 0}
    states = found["hyperfl_live_assignments"]
    assert states == {(s,): 0 for s in ("submitted", "expired", "dropped")} | {
        ("offered",): 1,
        ("leased",): 1,
    }
    await coordinator.put(task, update_bytes(specification, task))
    assert (await scrape(coordinator))["hyperfl_live_assignments"][("submitted",)] == 1
    coordinator.clock.advance(specification.round_policy.deadline_seconds)
    assert (await scrape(coordinator))["hyperfl_longest_overdue_round_seconds"][()] > 0
    assert found["hyperfl_database_size_bytes"][()] > 100_000
    assert found["hyperfl_database_up"] == {(): 1}


async def test_an_aggregation_is_timed_and_its_bytes_are_counted(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    num_bytes = 0
    for name in ("a", "b"):
        task = await coordinator.task("tiny", name)
        body = update_bytes(specification, task)
        num_bytes += len(body)
        assert (await coordinator.put(task, body)).status_code == 201
    await coordinator.driver.step()
    found = await scrape(coordinator)
    assert found["hyperfl_rounds_closed_total"] == {("committed",): 1, ("failed",): 0}
    assert found["hyperfl_aggregation_seconds_count"] == {(): 1}
    assert found["hyperfl_aggregation_bytes_total"] == {(): num_bytes}
    assert found["hyperfl_update_bytes_total"] == {(): num_bytes}
    assert found["hyperfl_updates_recorded_total"] == {(): 2}


@on_sqlite
async def test_requests_are_counted_by_template_method_status_and_problem(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.started(tiny_specification(), "a")
    task = await coordinator.task("tiny", "a")
    assert (await coordinator.put(task, b"nonsense")).status_code == 422
    for method, path in [("GET", "/v1/nowhere"), ("BREW", "/healthz"), ("GET", "/wp-login.php")]:
        await coordinator.http.request(method, path)
    answer = await coordinator.http.get("/metrics", headers=coordinator.admin)
    found = samples(answer.text)
    requests = found["hyperfl_requests_total"]
    assert requests[("GET", TASK, "200")] == 1
    assert requests[("PUT", UPDATES, "422")] == 1
    assert requests[("GET", "none", "404")] == 2
    assert requests[("other", "/healthz", "405")] == 1
    assert found["hyperfl_request_seconds_count"][("PUT", UPDATES)] == 1
    assert found["hyperfl_problems_total"][("malformed-update", UPDATES)] == 1
    assert found["hyperfl_updates_refused_total"] == {(): 1}
    assert "wp-login" not in answer.text
    assert label_names(answer.text) == {
        *("route", "method", "status", "problem", "phase", "state", "kind", "outcome", "reason"),
        "le",
    }
    for name in ("tiny", '"a"'):
        assert name not in answer.text, "no name of a federation or client"


@on_sqlite
async def test_a_poll_that_waits_is_open_and_the_drivers_silence_grows(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    polls = coordinator.context.metrics.open_polls
    polling = asyncio.create_task(
        coordinator.http.get(
            "/v1/federations/tiny/task?wait=20", headers=coordinator.credentials["a"]
        )
    )
    async with asyncio.timeout(20):
        while polls._value.get() != 1:  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0.01)
    before = (await scrape(coordinator))["hyperfl_driver_last_step_age_seconds"][()]
    await asyncio.sleep(0.01)
    found = await scrape(coordinator)
    assert found["hyperfl_open_polls"] == {(): 1}
    assert found["hyperfl_driver_last_step_age_seconds"][()] > before
    coordinator.context.tasks_bell.close()
    await polling
    assert (await scrape(coordinator))["hyperfl_open_polls"] == {(): 0}


async def test_transactions_and_waits_are_counted(coordinator: RunningCoordinator) -> None:
    before = await scrape(coordinator)
    await coordinator.create(tiny_specification())
    after = await scrape(coordinator)
    kind = ("write", "committed")
    transactions = "hyperfl_database_transactions_total"
    assert after[transactions][kind] > before[transactions][kind]
    count, total = "hyperfl_database_wait_seconds_count", "hyperfl_database_wait_seconds_sum"
    assert after[count][()] > before[count][()]
    assert after[total][()] > before[total][()]


@on_sqlite
async def test_what_a_process_counted_is_told_while_its_database_does_not_answer(
    database_url: str, tmp_path: Path
) -> None:
    async with running_coordinator(database_url, tmp_path, metrics_need_token=False) as coordinator:
        no_answer = failing(PoolTimeoutError("no connection"))
        with before_statement(coordinator.context.database, "", no_answer):
            found = await scrape(coordinator)
        assert found["hyperfl_database_up"] == {(): 0}
        assert "hyperfl_live_rounds" not in found
        assert found["hyperfl_database_outages_total"] == {("unanswered",): 1, ("storage-full",): 0}
        assert found["hyperfl_database_transactions_total"][("read", "failed")] == 1
        assert (await scrape(coordinator))["hyperfl_database_up"] == {(): 1}


@on_sqlite
async def test_a_read_only_token_reads_metrics_and_a_clients_does_not(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    created = await coordinator.http.post(
        "/v1/tokens", json={"name": "prometheus", "scope": "read-only"}, headers=coordinator.admin
    )
    reader = {"Authorization": f"Bearer {created.json()['token']}"}

    async def status(headers: dict[str, str]) -> int:
        return (await coordinator.http.get("/metrics", headers=headers)).status_code

    assert await status(reader) == 200
    assert await status(coordinator.credentials["a"]) == 403
    assert await status({}) == 401


@on_sqlite
async def test_unknown_tokens_at_metrics_have_a_rate(database_url: str, tmp_path: Path) -> None:
    async with running_coordinator(
        database_url, tmp_path, unauthenticated_requests_per_second_per_address=0.2
    ) as coordinator:
        wrong = {"Authorization": "Bearer wrong"}
        for status in (401, 401, 429):
            assert (await coordinator.http.get("/metrics", headers=wrong)).status_code == status
        assert (await coordinator.http.get("/healthz")).status_code == 200
