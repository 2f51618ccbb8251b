"""A validation split chooses the best version, and does nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.arrays import NamedArrays
from shared.rest.schema import TaskKind
from tests.support.hosted_clients import hosted_client, read_update, stub_parts, worker_config
from tests.support.random_clients import random_client_data
from tests.support.round_bench import Bench
from tests.support.stub_method import StubMethod
from worker.errors import ConfigError, PrivateStateError
from worker.methods.interface import Participant
from worker.operations.evaluation import evaluate_clients
from worker.rounds.held_task import HeldTask
from worker.settings import WorkerSettings

NUM_VALIDATION = 4


class GradedMethod(StubMethod):
    """Says of a validation split what a test tells it to, and remembers what it was asked."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.coordinator.specification.parameters)
        self.grades: list[float] = []
        self.measured: list[tuple[float, int]] = []

    def evaluate(self, participant: Participant, weights: NamedArrays) -> dict[str, float]:
        found = super().evaluate(participant, weights)
        if len(participant.data.test) == NUM_VALIDATION:
            found["accuracy"] = self.grades.pop(0)
            self.measured.append((found["loss"], len(participant.data.train)))
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    made.method = GradedMethod(made)
    yield made
    for group in made.groups:
        group.close()


def with_validation(held: HeldTask) -> HeldTask:
    held.client.data = random_client_data(0, 5, num_validation=NUM_VALIDATION)
    return held


async def train(bench: Bench, *grades: float) -> HeldTask:
    """One round for each grade, each from weights of its own."""
    held = None
    for number, grade in enumerate(grades, start=1):
        bench.method.grades.append(grade)
        bench.coordinator.add_version(number)
        task = bench.coordinator.add_task("alice", number, base_version=number)
        held = with_validation(
            HeldTask(hosted_client(bench.coordinator, bench.folder, "alice"), task)
        )
        assert await bench.round_work().do([held])
    assert held is not None
    return held


async def test_the_newest_of_the_best_is_kept_with_what_it_was_measured_with(
    bench: Bench,
) -> None:
    held = await train(bench, 0.5, 0.9, 0.9, 0.7)
    kept = held.client.load_best()
    assert kept is not None
    assert (kept.about.weights_version, kept.about.round_number) == (3, 3)
    assert (kept.about.accuracy, kept.about.num_examples) == (0.9, NUM_VALIDATION)
    assert kept.about.weights_digest == bench.coordinator.digest(3)
    assert kept.private["embedding"].tolist() == [6.0] * 3, "after rounds 1, 2 and 3"
    assert held.client.state.tensors["embedding"].tolist() == [10.0] * 3, "the newest goes on"
    assert bench.method.measured == [(3.0 * total, 5) for total in (1, 3, 6, 10)]


async def test_on_another_split_the_best_is_measured_again(bench: Bench) -> None:
    await train(bench, 0.9)
    bench.method.grades += [0.6, 0.3]
    task = bench.coordinator.add_task("alice", 2)
    held = HeldTask(hosted_client(bench.coordinator, bench.folder, "alice"), task)
    held.client.data = random_client_data(1, 5, num_validation=NUM_VALIDATION)
    await bench.round_work().do([held])
    kept = held.client.load_best()
    assert kept is not None
    assert (kept.about.weights_version, kept.about.accuracy) == (0, 0.6), "0.3 is of the old one"
    assert bench.method.measured == [(3.0, 5), (9.0, 5), (3.0, 5)]
    assert held.client.data.validation is not None
    assert kept.about.examples_digest == held.client.data.validation.content_digest

    bench.method.grades += [0.2]
    task = bench.coordinator.add_task("alice", 3)
    again = HeldTask(held.client, task)
    await bench.round_work().do([again])
    assert again.client.best() == kept.about


async def test_nothing_of_it_is_sent(bench: Bench) -> None:
    await train(bench, 0.9)
    (content,) = bench.coordinator.updates()
    assert read_update(content)[1].metrics == {"accuracy_after": 0.5}


async def test_an_evaluation_counts_too(bench: Bench) -> None:
    bench.method.grades.append(1.0)
    held = with_validation(bench.held("alice", kind=TaskKind.EVALUATE, round_number=7))
    await bench.round_work().do([held])
    best = held.client.best()
    assert best is not None
    assert (best.weights_version, best.round_number, best.accuracy) == (0, 7, 1.0)


async def test_without_a_validation_split_nothing_is_kept(bench: Bench) -> None:
    held = bench.held("alice")
    await bench.round_work().do([held])
    assert held.client.best() is None
    assert not [*(bench.folder / "alice").glob("best*")]


async def test_a_full_disk_keeps_what_was_best_and_trains_the_round_again(bench: Bench) -> None:
    before = await train(bench, 0.5)
    (bench.folder / "alice" / ".best.safetensors.new").mkdir()
    bench.method.grades.append(0.9)
    task = bench.coordinator.add_task("alice", 2)
    held = with_validation(HeldTask(before.client, task))
    with pytest.raises(OSError, match="directory"):
        await bench.round_work().do([held])
    best = held.client.best()
    assert best is not None
    assert best.accuracy == 0.5
    assert bench.on_disk("alice").last_round == 1


async def test_the_best_is_used_when_the_coordinator_has_its_weights_no_longer(
    bench: Bench,
) -> None:
    await train(bench, 0.9, 0.2, 0.1)
    del bench.coordinator.versions[1]
    parts = stub_parts(bench.method, bench.coordinator.transport)
    config = worker_config(bench.folder, "tiny", "alice")
    settings = WorkerSettings(device="cpu")
    (best,) = await evaluate_clients(config, settings, parts, which="best")
    (final,) = await evaluate_clients(config, settings, parts)
    assert (best["weights_version"], best["loss"]) == (1, 3.0)
    assert (final["weights_version"], final["loss"]) == (3, 18.0)


async def test_whoever_has_none_is_told_what_it_takes(bench: Bench) -> None:
    bench.held("alice")
    parts = stub_parts(bench.method, bench.coordinator.transport)
    config = worker_config(bench.folder, "tiny", "alice")
    with pytest.raises(ConfigError, match=r"client alice has no best version: .* validation split"):
        await evaluate_clients(config, WorkerSettings(device="cpu"), parts, which="best")


async def test_another_federations_best_version_is_refused(bench: Bench) -> None:
    held = await train(bench, 0.5)
    held.client.state = replace(held.client.state, specification_digest="sha256:other")
    with pytest.raises(
        PrivateStateError,
        match=r"alice/best\.safetensors is of client alice of federation tiny, or of another",
    ):
        held.client.best()
