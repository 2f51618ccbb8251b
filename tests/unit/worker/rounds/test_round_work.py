"""The work of one round: train or evaluate, save, upload."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shared.federation.specification import EncodingName
from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from tests.support.clock import ManualClock
from tests.support.fake_coordinator import FakeCoordinator, Request, problem, unavailable
from tests.support.hosted_clients import (
    NUM_TRAIN_EXAMPLES,
    hosted_client,
    read_update,
    saved_state,
)
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.waiting import RecordedSleep
from worker.errors import Refused, WeightsError
from worker.methods.interface import DIVERGED, Participant, TrainingInterrupted
from worker.remote.patience import Patience, Sleep
from worker.remote.weights_cache import WeightsCache
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter
from worker.site.private_state import FILE_NAME, PendingUpdate, PrivateState
from worker.site.round_ledger import load_ledger
from worker.site_policy import SitePolicy

BIAS = "hypernetwork.output.bias"


class Killed(Exception):
    """Ends a worker as a crash would, between two requests."""


@dataclass
class Bench:
    """A task group between a fake coordinator, a stub method and a folder of states."""

    folder: Path
    encoding: EncodingName = "dense"
    stop: threading.Event = field(default_factory=threading.Event)
    policy: SitePolicy = field(default_factory=SitePolicy)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.coordinator = FakeCoordinator(tiny_specification(encoding=self.encoding))
        self.method = StubMethod(self.coordinator.specification.parameters)
        self.sleep = RecordedSleep()
        self.heartbeat_sleep: Sleep = asyncio.sleep
        self.beats_after: list[float] = []
        self.groups: list[RoundWork] = []

    def round_work(self) -> RoundWork:
        """A new worker's group."""
        patience = Patience(60.0, self.sleep)
        specification = self.coordinator.specification
        cache = WeightsCache(self.folder / "weights", specification, patience)
        gate = PolicyGate(self.policy, specification.training, self.clock)
        self.groups.append(
            RoundWork(
                PlainWriter(specification),
                self.method,
                cache,
                patience,
                self.stop,
                gate,
                self.heartbeat_sleep,
            )
        )
        return self.groups[-1]

    def held(self, name: str, state: dict[str, Any] | None = None, **task: Any) -> HeldTask:
        """A client with a task; ``state`` replaces entries of its first state."""
        client = hosted_client(self.coordinator, self.folder, name)
        client.save(replace(client.state, **state or {}))
        return HeldTask(client, self.coordinator.add_task(name, **task))

    def on_disk(self, name: str) -> PrivateState:
        state = saved_state(self.coordinator, self.folder, name)
        assert state is not None
        return state

    def file(self, name: str) -> bytes:
        return (self.folder / name / FILE_NAME).read_bytes()

    def restarted(self, name: str) -> HeldTask:
        """The client of the next worker, with the task it is still to do."""
        client = hosted_client(self.coordinator, self.folder, name)
        return HeldTask(client, self.coordinator.tasks[name][0])


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(tmp_path, getattr(request, "param", "dense"))
    yield made
    for group in made.groups:
        group.close()


def both_encodings(test: Any) -> Any:
    return pytest.mark.parametrize("bench", ["dense", "factored"], indirect=True)(test)


def leak(bench: Bench, name: str) -> None:
    bench.method.extra_deltas[name] = np.ones(3, np.float32)


async def test_an_update_says_what_it_is(bench: Bench) -> None:
    await bench.round_work().do([bench.held("alice", round_number=4)])
    (content,) = bench.coordinator.updates()
    tensors, metadata = read_update(content)
    assert tensors.keys() == bench.coordinator.specification.parameters.by_name.keys()
    assert all((tensor == 4.0).all() for tensor in tensors.values())
    assert metadata.model_dump() == {
        "protocol": 1,
        "federation": "tiny",
        "client": "alice",
        "round_number": 4,
        "base_version": 0,
        "base_digest": bench.coordinator.digest(0),
        "encoding": "dense",
        "num_examples": NUM_TRAIN_EXAMPLES,
        "metrics": {"accuracy_after": 0.5},
    }


@both_encodings
async def test_the_state_is_on_disk_before_the_update_is_sent(bench: Bench) -> None:
    held = bench.held("alice")
    seen: list[PrivateState] = []
    bench.coordinator.receive = lambda request: (
        seen.append(bench.on_disk("alice")) if request.method == "PUT" else None
    )
    await bench.round_work().do([held])
    (state,) = seen
    assert state.pending is not None
    assert [state.pending.content] == bench.coordinator.updates()
    assert (state.last_round, state.tensors["embedding"].tolist()) == (1, [1.0, 1.0, 1.0])
    assert state.residual.keys() == (
        set() if bench.encoding == "dense" else bench.coordinator.versions[0].keys()
    )


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


@both_encodings
@pytest.mark.parametrize("name", ["embedding", "head.weight", "head.bias", "buffers.mean"])
async def test_a_private_tensor_is_stopped_before_anything_is_sent(bench: Bench, name: str) -> None:
    held = bench.held("alice")
    before = bench.file("alice")
    leak(bench, name)
    with pytest.raises(ValueError, match=f"not shared by this federation: {name}$"):
        await bench.round_work().do([held])
    assert bench.coordinator.updates() == []
    assert bench.file("alice") == before


@both_encodings
async def test_a_private_tensor_in_place_of_a_shared_one_is_stopped(bench: Bench) -> None:
    held = bench.held("alice")
    leak(bench, BIAS)
    with pytest.raises(ValueError, match=f"the change of {BIAS} has shape"):
        await bench.round_work().do([held])
    assert bench.coordinator.updates() == []


async def test_a_leak_stops_clients_that_come_later(bench: Bench) -> None:
    held = [bench.held(name) for name in ("alice", "bob")]
    leak(bench, "embedding")
    with pytest.raises(ValueError, match="embedding"):
        await bench.round_work().do(held)
    assert bench.method.trained == [("alice", 1)]
    assert bench.coordinator.updates() == []


async def test_a_diverged_client_sends_nothing_and_the_others_go_on(bench: Bench) -> None:
    held = {name: bench.held(name) for name in ("alice", "bob", "carol")}
    before = bench.file("bob")
    bench.method.diverging = {"bob"}
    await bench.round_work().do(list(held.values()))
    assert bench.coordinator.updates("bob") == []
    assert bench.file("bob") == before
    assert held["bob"].client.failed_in_round == 1
    assert bench.coordinator.declined() == [("bob", 1, DIVERGED)]
    for name in ("alice", "carol"):
        assert len(bench.coordinator.updates(name)) == 1
        assert bench.on_disk(name).pending is None
        assert held[name].client.failed_in_round is None


async def test_a_client_that_is_shut_out_when_it_declines_is_done(bench: Bench) -> None:
    held = bench.held("alice")
    bench.method.diverging = {"alice"}
    bench.coordinator.answer("PUT", "/decline", problem(ProblemType.UNAUTHENTICATED, "revoked"))
    await bench.round_work().do([held])
    assert held.client.is_shut_out


async def test_a_decline_is_repeated_until_somebody_answers(bench: Bench) -> None:
    bench.method.diverging = {"alice"}
    bench.coordinator.answer("PUT", "/decline", unavailable(), httpx.ConnectError("away"))
    await bench.round_work().do([bench.held("alice")])
    assert bench.coordinator.declined() == [("alice", 1, DIVERGED)] * 3


async def test_a_client_that_its_sites_policy_excludes_declines_and_the_others_train(
    bench: Bench,
) -> None:
    bench.policy = SitePolicy(rounds_in_all=1)
    group = bench.round_work()
    await group.do([bench.held("alice", round_number=1)])
    await group.do([bench.held(name, round_number=2) for name in ("alice", "bob")])
    assert bench.method.trained == [("alice", 1), ("bob", 2)]
    assert bench.coordinator.declined() == [("alice", 2, "policy.rounds_in_all is 1")]


async def test_a_round_is_counted_before_it_is_trained_and_once(bench: Bench) -> None:
    counted: list[int] = []
    bench.policy = SitePolicy(rounds_per_day=1)
    bench.method.before_step = lambda participant: counted.append(
        load_ledger(bench.folder / participant.name).num_rounds
    )

    def kill_at_upload(request: Request) -> None:
        if request.method == "PUT":
            raise Killed

    bench.coordinator.receive = kill_at_upload
    held = bench.held("alice", round_number=1)
    with pytest.raises(Killed):
        await bench.round_work().do([held])
    held.client.discard_pending()
    bench.coordinator.receive = lambda _: None
    await bench.round_work().do([bench.restarted("alice")])
    assert counted == [1, 1]
    assert bench.coordinator.declined() == []


async def test_an_evaluation_is_no_round_of_training(bench: Bench) -> None:
    bench.policy = SitePolicy(rounds_in_all=1)
    group = bench.round_work()
    await group.do([bench.held("alice", round_number=1)])
    await group.do([bench.held("alice", round_number=2, kind=TaskKind.EVALUATE)])
    assert bench.coordinator.declined() == []


async def test_numbers_leave_only_as_the_policy_says(bench: Bench) -> None:
    bench.policy = SitePolicy(metrics=("accuracy_after", "accuracy"), metric_digits=1)
    group = bench.round_work()
    await group.do([bench.held("alice", round_number=1)])
    await group.do([bench.held("alice", round_number=2, kind=TaskKind.EVALUATE)])
    sent = [read_update(content)[1].metrics for content in bench.coordinator.updates()]
    assert sent == [{"accuracy_after": 0.5}, {"accuracy": 0.2}]


async def test_a_stop_ends_training_between_two_steps(bench: Bench) -> None:
    held = bench.held("alice")
    before = bench.file("alice")
    bench.method.before_step = lambda _: bench.stop.set()
    with pytest.raises(TrainingInterrupted):
        await bench.round_work().do([held])
    assert bench.file("alice") == before
    assert bench.coordinator.updates() == []


async def test_what_was_trained_before_a_stop_is_kept(bench: Bench) -> None:
    held = [bench.held(name) for name in ("alice", "bob")]
    before = bench.file("bob")

    def stop_at_bob(participant: Participant) -> None:
        if participant.name == "bob":
            bench.stop.set()

    bench.method.before_step = stop_at_bob
    with pytest.raises(TrainingInterrupted):
        await bench.round_work().do(held)
    assert bench.on_disk("alice").last_round == 1
    assert bench.file("bob") == before


async def test_clients_are_trained_together_in_order_of_their_names(bench: Bench) -> None:
    held = [bench.held(name) for name in ("carol", "alice", "bob")]
    await bench.round_work().do(held)
    assert bench.method.trained == [("alice", 1), ("bob", 1), ("carol", 1)]
    assert len(bench.coordinator.updates()) == 3


async def test_an_update_is_sent_while_the_next_client_trains(bench: Bench) -> None:
    sent = threading.Event()
    bench.coordinator.receive = lambda request: (
        sent.set() if request.url.path.endswith("/alice") else None
    )
    was_sent: list[bool] = []

    def wait_for_alice(participant: Participant) -> None:
        if participant.name == "bob":
            was_sent.append(sent.wait(5.0))

    bench.method.before_step = wait_for_alice
    await bench.round_work().do([bench.held(name) for name in ("alice", "bob")])
    assert was_sent == [True]


async def test_a_pending_update_is_sent_while_others_train(bench: Bench) -> None:
    pending = PendingUpdate(
        TaskKind.TRAIN, 1, 0, b"made before the restart", bench.coordinator.digest(0)
    )
    held = [bench.held("alice", {"pending": pending}), bench.held("bob")]
    await bench.round_work().do(held)
    assert bench.method.trained == [("bob", 1)]
    assert bench.coordinator.updates("alice") == [b"made before the restart"]
    assert len(bench.coordinator.updates("bob")) == 1


async def test_an_evaluation_sends_metrics_alone_and_changes_nothing(bench: Bench) -> None:
    held = bench.held("alice", kind=TaskKind.EVALUATE, round_number=3)
    before = bench.on_disk("alice")
    await bench.round_work().do([held])
    (content,) = bench.coordinator.updates()
    tensors, metadata = read_update(content)
    assert tensors == {}
    assert metadata.metrics == {"accuracy": 0.25, "loss": 0.0, "num_test_examples": 7.0}
    assert metadata.num_examples == 7
    after = bench.on_disk("alice")
    assert (after.last_round, after.pending) == (before.last_round, None)
    assert after.tensors["embedding"].tolist() == before.tensors["embedding"].tolist()
    assert bench.method.trained == []


async def test_work_whose_weights_are_no_longer_kept_is_dropped_and_the_worker_goes_on(
    bench: Bench,
) -> None:
    bench.coordinator.add_version(3)
    held = bench.held("alice", base_version=3)
    part = bench.folder / "weights"
    bench.coordinator.answer("GET", "/weights/3", problem(ProblemType.VERSION_REMOVED))
    await bench.round_work().do([held])
    assert not bench.coordinator.updates()
    assert not list(part.glob("*"))
    await bench.round_work().do([HeldTask(held.client, bench.coordinator.tasks["alice"][0])])
    assert len(bench.coordinator.updates()) == 1


async def test_weights_that_are_not_the_tasks_are_not_trained_on(bench: Bench) -> None:
    held = bench.held("alice")
    other = held.task.model_copy(update={"base_digest": "sha256:" + "0" * 64})
    work = bench.round_work()
    assert not await work.do([HeldTask(held.client, other)]), "it may have gone back meanwhile"
    with pytest.raises(WeightsError):
        await work.do([HeldTask(held.client, other)])
    assert bench.method.trained == []
    assert bench.coordinator.updates() == []


async def test_weights_that_the_coordinator_no_longer_knows_are_no_end(bench: Bench) -> None:
    bench.coordinator.add_version(3)
    held = bench.held("alice", base_version=3)
    bench.coordinator.answer("GET", "/weights/3", problem(ProblemType.NOT_FOUND))
    work = bench.round_work()
    assert not await work.do([held])
    assert await work.do([held])
    assert len(bench.coordinator.updates()) == 1


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


def wait_for_heartbeat(bench: Bench) -> asyncio.Event:
    """Makes training last until a heartbeat was seen."""
    seen, released = asyncio.Event(), threading.Event()

    def note(request: Request) -> None:
        if request.url.path.endswith("/heartbeat"):
            seen.set()
            released.set()

    def wait(participant: Participant) -> None:
        released.wait(5.0)

    async def sleep(seconds: float) -> None:
        bench.beats_after.append(seconds)
        await asyncio.sleep(0.001)

    bench.coordinator.receive = note
    bench.method.before_step = wait
    bench.heartbeat_sleep = sleep
    return seen


async def test_a_lease_is_kept_alive_while_training_lasts(bench: Bench) -> None:
    seen = wait_for_heartbeat(bench)
    await bench.round_work().do([bench.held("alice", round_number=3, lease_seconds=30.0)])
    assert seen.is_set()
    assert set(bench.beats_after) == {10.0}
    beats = bench.coordinator.asked("POST", "/rounds/3/heartbeat")
    assert {beat.content for beat in beats} == {b'{"attempt":1}'}
    assert len(bench.coordinator.updates()) == 1


@pytest.mark.parametrize(
    "answer",
    [
        problem(ProblemType.LEASE_LOST),
        unavailable(),
        httpx.ReadTimeout("slow"),
        httpx.Response(404, html="<h1>It works!</h1>"),
    ],
    ids=["lease lost", "unavailable", "timeout", "a page"],
)
async def test_a_failed_heartbeat_does_not_end_the_work(
    bench: Bench, answer: httpx.Response | httpx.TransportError
) -> None:
    bench.coordinator.answer("POST", "/heartbeat", answer)
    seen = wait_for_heartbeat(bench)
    await bench.round_work().do([bench.held("alice")])
    assert seen.is_set()
    assert bench.on_disk("alice").pending is None


async def test_no_heartbeat_outlives_the_work(bench: Bench) -> None:
    leak(bench, "embedding")
    before = asyncio.all_tasks()
    with contextlib.suppress(ValueError):
        await bench.round_work().do([bench.held(name) for name in ("alice", "bob")])
    assert asyncio.all_tasks() == before
