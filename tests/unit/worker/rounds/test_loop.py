"""The worker's life: start, poll, work round after round, end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from shared.rest.problems import ProblemType
from shared.rest.schema import FederationState, TaskKind
from tests.support.fake_coordinator import Request, problem
from tests.support.looping_worker import Worker
from tests.support.round_bench import Killed
from worker.errors import Unreachable
from worker.settings import WorkerSettings


async def test_rounds_are_worked_until_the_federation_ends(worker: Worker) -> None:
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
        worker.coordinator.add_task(name, 2)
        worker.coordinator.add_task(name, 3, kind=TaskKind.EVALUATE)
    await worker.run("alice", "bob")
    assert sorted(worker.method.trained) == [("alice", 1), ("alice", 2), ("bob", 1), ("bob", 2)]
    for name in ("alice", "bob"):
        rounds = [
            int(request.url.path.split("/")[-3])
            for request in worker.coordinator.asked("PUT", f"/{name}")
        ]
        assert rounds == [1, 2, 3]
        state = worker.on_disk(name)
        assert (state.last_round, state.pending) == (2, None)
        assert state.tensors["embedding"].tolist() == [3.0, 3.0, 3.0]


async def test_clients_of_one_round_train_together(worker: Worker) -> None:
    groups: list[list[str]] = []
    train = worker.method.train

    def note(group: Any, *arguments: Any) -> Any:
        groups.append([participant.name for participant in group])
        return train(group, *arguments)

    worker.method.train = note  # type: ignore[method-assign]
    for name in ("bob", "alice", "carol"):
        worker.coordinator.add_task(name, 1)
    await worker.run("bob", "alice", "carol")
    assert groups == [["alice", "bob", "carol"]]


async def test_clients_of_one_round_are_spread_over_the_devices_named(worker: Worker) -> None:
    groups: list[list[str]] = []
    train = worker.method.train

    def note(group: Any, *arguments: Any) -> Any:
        groups.append([participant.name for participant in group])
        return train(group, *arguments)

    worker.method.train = note  # type: ignore[method-assign]
    worker.settings = WorkerSettings(poll_wait_seconds=0.0, device="cpu,cpu")
    for name in ("bob", "alice", "carol"):
        worker.coordinator.add_task(name, 1)
    await worker.run("bob", "alice", "carol")
    assert sorted(groups) == [["alice", "carol"], ["bob"]]
    for name in ("bob", "alice", "carol"):
        assert worker.on_disk(name).last_round == 1


async def test_the_newest_round_goes_first(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("bob", 2)
    await worker.run("alice", "bob")
    assert worker.method.trained == [("bob", 2), ("alice", 1)]


async def test_a_federation_that_has_ended_leaves_nothing_to_do(worker: Worker) -> None:
    await worker.run("alice", "bob")
    assert worker.coordinator.updates() == []
    assert worker.polls("alice") == worker.polls("bob") == 1


async def test_clients_wait_for_work(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("GET", "/task", httpx.Response(204), httpx.Response(204))
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1)]
    assert worker.polls("alice") == 4


async def test_a_federation_that_is_paused_is_said(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.state = FederationState.PAUSED
    worker.coordinator.reason = "9 rounds failed in a row"
    worker.coordinator.answer("GET", "/task", httpx.Response(204), httpx.Response(204))
    await worker.run("alice")
    said = capsys.readouterr()
    assert (said.out + said.err).count("9 rounds failed in a row") == 1


async def test_a_poll_that_is_lost_while_a_round_opens_is_said_and_sent_again(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = worker.coordinator.reply_to
    lost: list[Request] = []

    async def lose_a_poll(request: Request) -> httpx.Response:
        is_bobs = request.headers.get("Authorization", "").endswith("-bob")
        if request.url.path.endswith("/task") and is_bobs and not lost:
            lost.append(request)
            await asyncio.Event().wait()
        return handle(request)

    worker.coordinator.reply_to = lose_a_poll  # type: ignore[assignment, method-assign]
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
    await worker.run("alice", "bob", gather_seconds=0.0)
    assert worker.method.trained == [("alice", 1), ("bob", 1)]
    said = capsys.readouterr()
    assert (said.out + said.err).count("polls without an answer are asked again") == 1


@pytest.mark.parametrize("kind", [ProblemType.ROUND_CLOSED, ProblemType.STALE_BASE_VERSION])
async def test_a_late_update_is_dropped_and_the_next_round_worked(
    worker: Worker, kind: ProblemType
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    worker.coordinator.answer("PUT", "/alice", problem(kind))
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1), ("alice", 2)]
    first, second = worker.coordinator.updates()
    assert first != second
    assert worker.on_disk("alice").pending is None


async def test_a_lost_lease_is_followed_by_the_same_bytes_under_the_next(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.answer("PUT", "/alice", problem(ProblemType.LEASE_LOST))
    await worker.run("alice")
    requests = worker.coordinator.asked("PUT", "/alice")
    assert [request.url.params["attempt"] for request in requests] == ["1", "2"]
    assert requests[0].content == requests[1].content
    assert worker.method.trained == [("alice", 1)]


async def test_the_end_of_the_federation_drops_the_pending_update(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.kill_at("PUT", "/alice")
    with pytest.raises(Killed):
        await worker.run("alice")
    worker.coordinator.receive = lambda _: None
    worker.coordinator.tasks.clear()
    await worker.run("alice")
    assert worker.on_disk("alice").pending is None
    assert len(worker.coordinator.updates()) == 1


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_proxys_page_does_not_end_the_worker(worker: Worker, status: int) -> None:
    page = httpx.Response(status, html="<h1>It works!</h1>")
    worker.coordinator.add_version(1)
    for method, path in [
        ("GET", "/tiny"),
        ("GET", "/task"),
        ("GET", "/weights/1"),
        ("PUT", "/alice"),
    ]:
        worker.coordinator.answer(method, path, page, page)
    worker.coordinator.add_task("alice", 1, base_version=1)
    await worker.run("alice")
    assert worker.method.trained == [("alice", 1)]
    assert worker.on_disk("alice").pending is None


async def test_a_method_that_leaks_is_stopped_before_anything_is_sent(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.method.extra_deltas = {"embedding": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="not shared by this federation: embedding"):
        await worker.run("alice")
    assert worker.coordinator.updates() == []


async def test_a_coordinator_that_stays_away_is_given_up(worker: Worker) -> None:
    worker.settings = WorkerSettings(poll_wait_seconds=0.0, give_up_after_seconds=1e-9)
    worker.coordinator.answer("GET", "/task", httpx.ConnectError("connection refused"))
    with pytest.raises(Unreachable, match="connection refused"):
        await worker.run("alice")
