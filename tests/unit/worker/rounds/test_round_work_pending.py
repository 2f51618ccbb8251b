"""Updates without an answer: sent again, settled before the next training, or dropped."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import Request, problem, unavailable
from tests.support.hosted_clients import read_update
from tests.support.round_bench import BIAS, Bench, Killed
from worker.errors import Refused
from worker.site.private_state import PendingUpdate


async def test_an_answered_update_is_no_longer_pending(bench: Bench) -> None:
    held = bench.held("alice")
    await bench.round_work().do([held])
    assert held.client.state.pending is None
    assert bench.on_disk("alice").pending is None
    assert bench.on_disk("alice").last_round == 1


async def test_an_update_is_sent_unchanged_until_it_is_answered(bench: Bench) -> None:
    held = bench.held("alice")
    bench.coordinator.answer(
        "PUT",
        "/alice",
        unavailable("9"),
        httpx.ReadTimeout("slow"),
        httpx.Response(502),
        problem(ProblemType.INTERNAL),
        httpx.Response(404, html="<h1>It works!</h1>"),
    )
    await bench.round_work().do([held])
    updates = bench.coordinator.updates()
    assert len(updates) == 6
    assert len(set(updates)) == 1
    assert bench.sleep.waits[0] >= 9.0
    assert bench.on_disk("alice").pending is None


async def test_a_killed_workers_update_is_sent_again_with_the_same_bytes(bench: Bench) -> None:
    held = bench.held("alice")

    def kill(request: Request) -> None:
        if request.method == "PUT":
            raise Killed

    bench.coordinator.receive = kill
    with pytest.raises(Killed):
        await bench.round_work().do([held])
    bench.coordinator.receive = lambda _: None
    await bench.round_work().do([bench.restarted("alice")])
    first, second = bench.coordinator.updates()
    assert first == second
    assert bench.method.trained == [("alice", 1)]
    assert bench.on_disk("alice").pending is None


async def test_an_earlier_update_without_an_answer_is_sent_before_the_next_training(
    bench: Bench,
) -> None:
    pending = PendingUpdate(TaskKind.TRAIN, 1, 0, b"old")
    held = bench.held("alice", {"pending": pending}, round_number=2)
    bench.coordinator.receive = lambda request: (
        asked.append((request.url.path.split("/")[-3], request.content))
        if request.method == "PUT"
        else None
    )
    asked: list[tuple[str, bytes]] = []
    await bench.round_work().do([held])
    assert asked[0] == ("1", b"old")
    ((number, content),) = asked[1:]
    assert (number, read_update(content)[1].round_number) == ("2", 2)
    assert bench.on_disk("alice").pending is None


@pytest.mark.parametrize(
    "kind",
    [
        ProblemType.ROUND_CLOSED,
        ProblemType.STALE_BASE_VERSION,
        ProblemType.FEDERATION_FINISHED,
        ProblemType.NOT_FOUND,
    ],
)
async def test_an_update_that_nobody_wants_is_dropped(bench: Bench, kind: ProblemType) -> None:
    bench.coordinator.answer("PUT", "/alice", problem(kind))
    await bench.round_work().do([bench.held("alice")])
    state = bench.on_disk("alice")
    assert state.pending is None
    assert state.tensors["embedding"].tolist() == [1.0, 1.0, 1.0], "the training is kept"


async def test_a_lost_lease_keeps_the_update(bench: Bench) -> None:
    bench.coordinator.answer("PUT", "/alice", problem(ProblemType.LEASE_LOST))
    await bench.round_work().do([bench.held("alice")])
    pending = bench.on_disk("alice").pending
    assert pending is not None
    await bench.round_work().do([bench.restarted("alice")])
    assert bench.coordinator.updates() == [pending.content] * 2
    attempts = [request.url.params["attempt"] for request in bench.coordinator.asked("PUT")]
    assert attempts == ["1", "2"]
    assert bench.method.trained == [("alice", 1)]


async def test_a_refusal_that_is_a_fault_is_raised_and_the_update_kept(bench: Bench) -> None:
    fault = problem(ProblemType.UNSUPPORTED_MEDIA_TYPE, "not this one")
    bench.coordinator.answer("PUT", "/alice", fault)
    with pytest.raises(Refused, match="not this one"):
        await bench.round_work().do([bench.held("alice")])
    assert bench.on_disk("alice").pending is not None


async def test_a_pending_update_is_sent_while_others_train(bench: Bench) -> None:
    pending = PendingUpdate(
        TaskKind.TRAIN, 1, 0, b"made before the restart", bench.coordinator.digest(0)
    )
    held = [bench.held("alice", {"pending": pending}), bench.held("bob")]
    await bench.round_work().do(held)
    assert bench.method.trained == [("bob", 1)]
    assert bench.coordinator.updates("alice") == [b"made before the restart"]
    assert len(bench.coordinator.updates("bob")) == 1


async def test_an_update_from_weights_that_are_gone_is_not_sent_as_the_rounds(
    bench: Bench,
) -> None:
    pending = PendingUpdate(TaskKind.TRAIN, 1, 0, b"from before", "sha256:" + "0" * 64)
    held = bench.held("alice", {"pending": pending})
    bench.coordinator.answer("PUT", "/alice", problem(ProblemType.STALE_BASE_VERSION))
    assert await bench.round_work().do([held])
    old, new = bench.coordinator.updates()
    assert old == b"from before"
    assert read_update(new)[1].base_digest == held.task.base_digest
    assert bench.method.trained == [("alice", 1)]


@pytest.mark.parametrize("bench", ["factored"], indirect=True)
async def test_what_the_last_update_left_out_is_added_to_the_next(bench: Bench) -> None:
    left_out = {BIAS: np.array([0.5, 0.0, 0.0, 0.0], np.float32)}
    await bench.round_work().do([bench.held("alice", {"residual": left_out})])
    tensors, _ = read_update(bench.coordinator.updates()[0])
    sent = tensors[BIAS].astype(np.float32) * tensors[f"{BIAS}/scale"]
    np.testing.assert_allclose(sent, [1.5, 1.0, 1.0, 1.0], atol=1e-3)


@pytest.mark.parametrize("bench", ["factored"], indirect=True)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, [2.5, 2.0, 2.0, 2.0]),
        (problem(ProblemType.ROUND_CLOSED), [2.0, 2.0, 2.0, 2.0]),
        (problem(ProblemType.NOT_FOUND), [2.0, 2.0, 2.0, 2.0]),
    ],
    ids=["recorded", "round closed", "coordinator restored"],
)
async def test_what_an_unanswered_update_left_out_is_added_only_if_it_was_recorded(
    bench: Bench, answer: httpx.Response | None, expected: list[float]
) -> None:
    unanswered = {
        "residual": {BIAS: np.array([0.5, 0.0, 0.0, 0.0], np.float32)},
        "pending": PendingUpdate(TaskKind.TRAIN, 1, 0, b"of a round that is over"),
        "last_round": 1,
    }
    if answer is not None:
        bench.coordinator.answer("PUT", "/rounds/1/updates/alice", answer)
    await bench.round_work().do([bench.held("alice", unanswered, round_number=2)])
    _, content = bench.coordinator.updates()
    tensors, _ = read_update(content)
    sent = tensors[BIAS].astype(np.float32) * tensors[f"{BIAS}/scale"]
    np.testing.assert_allclose(sent, expected, atol=1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        ProblemType.ROUND_CLOSED,
        ProblemType.STALE_BASE_VERSION,
        ProblemType.UPDATE_CONFLICT,
        ProblemType.LEASE_LOST,
        ProblemType.MALFORMED_UPDATE,
        ProblemType.BODY_TOO_LARGE,
        ProblemType.FEDERATION_FINISHED,
        ProblemType.NOT_FOUND,
    ],
)
async def test_an_earlier_update_that_was_not_recorded_is_dropped(
    bench: Bench, kind: ProblemType
) -> None:
    pending = PendingUpdate(TaskKind.TRAIN, 1, 0, b"old")
    bench.coordinator.answer("PUT", "/rounds/1/updates/alice", problem(kind))
    await bench.round_work().do([bench.held("alice", {"pending": pending}, round_number=2)])
    assert bench.method.trained == [("alice", 2)]
    assert bench.on_disk("alice").pending is None


async def test_an_earlier_update_is_kept_when_its_refusal_does_not_say_what_became_of_it(
    bench: Bench,
) -> None:
    pending = PendingUpdate(TaskKind.TRAIN, 1, 0, b"old")
    held = bench.held("alice", {"pending": pending}, round_number=2)
    before = bench.file("alice")
    fault = problem(ProblemType.UNSUPPORTED_MEDIA_TYPE, "not this one")
    bench.coordinator.answer("PUT", "/rounds/1/updates/alice", fault)
    with pytest.raises(Refused, match="not this one"):
        await bench.round_work().do([held])
    assert bench.file("alice") == before
    assert bench.method.trained == []


@pytest.mark.parametrize("bench", ["factored"], indirect=True)
@pytest.mark.parametrize("status", [403, 404, 500, 502])
async def test_a_proxys_page_does_not_drop_what_an_earlier_update_left_out(
    bench: Bench, status: int
) -> None:
    unanswered = {
        "residual": {BIAS: np.array([0.5, 0.0, 0.0, 0.0], np.float32)},
        "pending": PendingUpdate(TaskKind.TRAIN, 1, 0, b"recorded, but nobody heard of it"),
        "last_round": 1,
    }
    page = httpx.Response(status, html="<h1>It works!</h1>")
    bench.coordinator.answer("PUT", "/rounds/1/updates/alice", page)
    await bench.round_work().do([bench.held("alice", unanswered, round_number=2)])
    first, second, content = bench.coordinator.updates()
    assert first == second == b"recorded, but nobody heard of it"
    tensors, _ = read_update(content)
    sent = tensors[BIAS].astype(np.float32) * tensors[f"{BIAS}/scale"]
    np.testing.assert_allclose(sent, [2.5, 2.0, 2.0, 2.0], atol=1e-3)


async def test_a_client_that_is_shut_out_before_its_update_is_settled_keeps_its_state(
    bench: Bench,
) -> None:
    pending = PendingUpdate(TaskKind.TRAIN, 1, 0, b"old")
    held = bench.held("alice", {"pending": pending}, round_number=2)
    before = bench.file("alice")
    bench.coordinator.answer("PUT", "/rounds/1/updates/alice", problem(ProblemType.UNAUTHENTICATED))
    await bench.round_work().do([held])
    assert held.client.is_shut_out
    assert bench.file("alice") == before
    assert bench.method.trained == []
