"""The work of one round: train or evaluate, save, upload."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shared.rest.problems import ProblemType
from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import problem
from tests.support.hosted_clients import NUM_TRAIN_EXAMPLES, read_update
from tests.support.round_bench import BIAS, Bench, leak
from worker.errors import WeightsError
from worker.methods.interface import Participant, TrainingInterrupted
from worker.rounds.held_task import HeldTask
from worker.site.private_state import PrivateState


def both_encodings(test: Any) -> Any:
    return pytest.mark.parametrize("bench", ["dense", "factored"], indirect=True)(test)


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


async def test_a_method_is_told_the_number_that_a_task_gives_its_client(bench: Bench) -> None:
    seen = dict[str, int | None]()
    bench.method.before_step = lambda one: seen.update({one.name: one.number})
    held = [bench.held("alice", client_number=4), bench.held("bob")]
    await bench.round_work().do(held)
    assert seen == {"alice": 4, "bob": None}


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


async def test_an_evaluation_sends_metrics_alone_and_changes_nothing(bench: Bench) -> None:
    held = bench.held("alice", kind=TaskKind.EVALUATE, round_number=3)
    before = bench.on_disk("alice")
    await bench.round_work().do([held])
    (content,) = bench.coordinator.updates()
    tensors, metadata = read_update(content)
    assert tensors == {}
    assert metadata.metrics == {"accuracy": 0.25, "loss": 0.0}
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
