"""Clients that are shut out, decline or are refused, and those beside them that go on."""

from __future__ import annotations

import pytest

from shared.rest.problems import ProblemType
from tests.support.fake_coordinator import Request, problem
from tests.support.looping_worker import Worker
from tests.support.round_bench import Killed
from worker.errors import Refused, RequestFailed
from worker.methods.interface import DIVERGED
from worker.site.private_state import FILE_NAME


@pytest.mark.parametrize("kind", [ProblemType.UNAUTHENTICATED, ProblemType.FORBIDDEN])
async def test_a_revoked_client_is_shut_out_and_the_others_go_on(
    worker: Worker, kind: ProblemType
) -> None:
    worker.coordinator.answer("GET", "/task", problem(kind))
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
        worker.coordinator.add_task(name, 2)
    await worker.run("alice", "bob")
    assert worker.method.trained == [("bob", 1), ("bob", 2)]
    assert worker.polls("alice") == 1


async def test_a_client_that_is_shut_out_keeps_its_pending_update(worker: Worker) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.kill_at("PUT", "/alice")
    with pytest.raises(Killed):
        await worker.run("alice")
    worker.coordinator.receive = lambda _: None
    before = (worker.folder / "alice" / FILE_NAME).read_bytes()
    worker.coordinator.answer("GET", "/task", problem(ProblemType.UNAUTHENTICATED, "revoked"))
    with pytest.raises(RequestFailed, match="accepts none of this worker"):
        await worker.run("alice")
    assert (worker.folder / "alice" / FILE_NAME).read_bytes() == before


async def test_a_worker_without_any_client_left_is_an_error(worker: Worker) -> None:
    revoked = [problem(ProblemType.UNAUTHENTICATED, "revoked") for _ in range(2)]
    worker.coordinator.answer("GET", "/task", *revoked)
    with pytest.raises(RequestFailed, match="accepts none of this worker's clients"):
        await worker.run("alice", "bob")


async def test_a_client_revoked_between_two_starts_does_not_hold_up_the_others(
    worker: Worker,
) -> None:
    await worker.run("alice", "bob")
    worker.coordinator.add_task("bob", 1)
    worker.coordinator.revoked.add("alice")
    await worker.run("alice", "bob")
    assert worker.method.trained == [("bob", 1)]


async def test_a_client_revoked_while_it_trains_does_not_hold_up_the_others(
    worker: Worker,
) -> None:
    for name in ("alice", "bob"):
        worker.coordinator.add_task(name, 1)
        worker.coordinator.add_task(name, 2)
    worker.method.before_step = lambda _: worker.coordinator.revoked.add("alice")
    await worker.run("alice", "bob")
    assert worker.method.trained == [("alice", 1), ("bob", 1), ("bob", 2)]
    assert len(worker.coordinator.updates("bob")) == 2


async def test_a_refusal_of_a_poll_that_is_a_fault_ends_the_worker(worker: Worker) -> None:
    worker.coordinator.answer("GET", "/task", problem(ProblemType.NOT_FOUND, "no federation"))
    with pytest.raises(Refused, match="no federation"):
        await worker.run("alice")


async def test_a_client_that_declines_is_not_asked_again_and_the_others_go_on(
    worker: Worker,
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("bob", 1)
    worker.method.diverging = {"alice"}
    await worker.run("alice", "bob")
    assert worker.coordinator.declined() == [("alice", 1, DIVERGED)]
    assert worker.method.trained == [("bob", 1)]


async def test_a_diverged_client_sits_the_round_out_where_its_decline_is_not_taken(
    worker: Worker,
) -> None:
    worker.coordinator.answer("PUT", "/decline", problem(ProblemType.NOT_FOUND))
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    worker.coordinator.add_task("bob", 1)
    worker.method.diverging = {"alice"}
    begun: list[str] = []
    worker.method.before_step = lambda participant: begun.append(participant.name)

    def close_round_at_fifth_poll(request: Request) -> None:
        if request.url.path.endswith("/task") and worker.polls("alice") == 5:
            worker.coordinator.tasks["alice"] = worker.coordinator.tasks["alice"][-1:]
            worker.method.diverging = set()

    worker.coordinator.receive = close_round_at_fifth_poll
    await worker.run("alice", "bob")
    assert begun == ["alice", "bob", "alice"]
    assert worker.method.trained == [("bob", 1), ("alice", 2)]
    assert len(worker.coordinator.updates("alice")) == 1
    assert worker.on_disk("alice").tensors["embedding"].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("kind", [ProblemType.MALFORMED_UPDATE, ProblemType.BODY_TOO_LARGE])
async def test_a_client_whose_update_is_refused_sits_the_round_out(
    worker: Worker, kind: ProblemType, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.coordinator.add_task("alice", 1)
    worker.coordinator.add_task("alice", 2)
    worker.coordinator.add_task("bob", 1)
    refused = problem(kind, "the update's norm is 7, over max_update_norm 5")
    worker.coordinator.answer("PUT", "/rounds/1/updates/alice", refused)

    await worker.run("alice", "bob")
    assert sorted(worker.method.trained) == [("alice", 1), ("alice", 2), ("bob", 1)]
    sent = [
        request.url.path.partition("/rounds/")[2] for request in worker.coordinator.asked("PUT")
    ]
    updates = ["1/updates/alice", "1/updates/bob", "2/updates/alice"]
    assert sorted(sent) == ["1/decline", *updates]
    reason = "the coordinator refuses its update: the update's norm is 7, over max_update_norm 5"
    assert worker.coordinator.declined() == [("alice", 1, reason)]
    assert worker.on_disk("alice").pending is None
    said = capsys.readouterr()
    assert "over max_update_norm 5" in said.out + said.err
