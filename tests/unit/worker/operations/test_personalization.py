"""Personalising hosted clients: one write each, nothing uploaded, no pending update lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog
import torch

from shared.arrays import NamedArrays
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import (
    RandomDatasets,
    hosted_client,
    saved_state,
    worker_config,
)
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.errors import ConfigError
from worker.methods.interface import (
    Participant,
    PrivateTensors,
    TrainingDivergedError,
    TrainingInterrupted,
)
from worker.operations import personalization
from worker.operations.personalization import personalize_clients
from worker.settings import WorkerSettings
from worker.site import opening, private_state
from worker.site.private_state import FILE_NAME, PendingUpdate

SETTINGS = WorkerSettings(device="cpu")


class PersonalizingMethod(StubMethod):
    """Adds the number of epochs to every private tensor."""

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        self.before_step(participant)
        if should_stop():
            raise TrainingInterrupted
        return {name: tensor + epochs for name, tensor in participant.private.items()}


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> FakeCoordinator:
    made = FakeCoordinator(tiny_specification())
    made.add_version(1)
    monkeypatch.setattr(opening, "DatasetCache", RandomDatasets)
    opened = partial(opening.open_site, transport=made.transport)
    monkeypatch.setattr(personalization, "open_site", opened)
    return made


@pytest.fixture
def method(coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> PersonalizingMethod:
    made = PersonalizingMethod(coordinator.specification.parameters)
    monkeypatch.setattr(opening, "build_method", lambda plan, device, resources: made)
    return made


async def test_a_client_that_never_took_part_gets_private_tensors_of_its_own(
    coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path
) -> None:
    config = worker_config(tmp_path, "tiny", "alice")
    (row,) = await personalize_clients(config, SETTINGS, 2, threading.Event())
    assert row == {
        "client": "alice",
        "weights_version": 1,
        "accuracy_before": 0.25,
        "accuracy_after": 0.25,
        "loss_before": 0.0,
        "loss_after": 6.0,
        "num_test_examples": 7,
    }
    state = saved_state(coordinator, tmp_path, "alice")
    assert state is not None
    assert state.tensors["embedding"].tolist() == [2.0, 2.0, 2.0]
    assert coordinator.updates() == []


async def test_all_else_in_the_state_stays(
    coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path
) -> None:
    alice = hosted_client(coordinator, tmp_path, "alice")
    residual = {"hypernetwork.trunk.bias": torch.ones(2).numpy()}
    alice.save(replace(alice.state, last_round=3, residual=residual, seed=99))
    await personalize_clients(
        worker_config(tmp_path, "tiny", "alice"), SETTINGS, 1, threading.Event()
    )
    state = saved_state(coordinator, tmp_path, "alice")
    assert state is not None
    assert (state.last_round, state.seed) == (3, 99)
    assert state.residual["hypernetwork.trunk.bias"].tolist() == [1.0, 1.0]


async def test_no_client_is_touched_while_one_has_a_pending_update(
    coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path
) -> None:
    hosted_client(coordinator, tmp_path, "alice")
    bob = hosted_client(coordinator, tmp_path, "bob")
    bob.save(replace(bob.state, pending=PendingUpdate(TaskKind.TRAIN, 1, 0, b"update")))
    before = [(tmp_path / name / FILE_NAME).read_bytes() for name in ("alice", "bob")]
    with pytest.raises(ConfigError, match="client bob has an update that the coordinator has not"):
        await personalize_clients(
            worker_config(tmp_path, "tiny", "alice", "bob"), SETTINGS, 1, threading.Event()
        )
    assert [(tmp_path / name / FILE_NAME).read_bytes() for name in ("alice", "bob")] == before


async def test_a_stop_keeps_who_is_done_and_leaves_the_others(
    coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path
) -> None:
    stop = threading.Event()
    method.before_step = lambda participant: stop.set() if participant.name == "bob" else None
    with pytest.raises(TrainingInterrupted, match="before client bob was done"):
        await personalize_clients(
            worker_config(tmp_path, "tiny", "alice", "bob"), SETTINGS, 5, stop
        )
    embeddings = []
    for name in ("alice", "bob"):
        state = saved_state(coordinator, tmp_path, name)
        assert state is not None
        embeddings.append(state.tensors["embedding"].tolist())
    assert embeddings == [[5.0] * 3, [0.0] * 3]


async def test_a_client_that_diverges_keeps_its_state_and_the_others_go_on(
    coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path
) -> None:
    def diverge(participant: Participant) -> None:
        if participant.name == "alice":
            raise TrainingDivergedError(["alice"])

    method.before_step = diverge
    config = worker_config(tmp_path, "tiny", "alice", "bob")
    with structlog.testing.capture_logs() as logs:
        rows = await personalize_clients(config, SETTINGS, 5, threading.Event())
    assert [row["client"] for row in rows] == ["bob"]
    (warning,) = (log for log in logs if log["log_level"] == "warning")
    assert "alice" in warning["reason"]
    embeddings = []
    for name in ("alice", "bob"):
        state = saved_state(coordinator, tmp_path, name)
        assert state is not None
        embeddings.append(state.tensors["embedding"].tolist())
    assert embeddings == [[0.0] * 3, [5.0] * 3]


async def test_a_method_without_a_private_part_is_refused(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = StubMethod(coordinator.specification.parameters)
    monkeypatch.setattr(opening, "build_method", lambda *_, **__: stub)
    with pytest.raises(ConfigError, match="method hyperfl cannot personalise"):
        await personalize_clients(
            worker_config(tmp_path, "tiny", "alice"), SETTINGS, 1, threading.Event()
        )


async def test_where_nothing_is_shared_there_is_nothing_to_fit_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training = TrainingPlan(method="local", model="cnn-mnist", image_shape=(1, 4, 4), num_classes=3)
    nothing = ParameterSpecification(seed=1, tensors=())
    made = FakeCoordinator(
        tiny_specification().model_copy(update={"training": training, "parameters": nothing})
    )
    monkeypatch.setattr(opening, "DatasetCache", RandomDatasets)
    opened = partial(opening.open_site, transport=made.transport)
    monkeypatch.setattr(personalization, "open_site", opened)
    stub = PersonalizingMethod(nothing)
    monkeypatch.setattr(opening, "build_method", lambda *_, **__: stub)
    with pytest.raises(ConfigError, match="method local shares nothing, so there are no weights"):
        await personalize_clients(
            worker_config(tmp_path, "tiny", "alice"), SETTINGS, 1, threading.Event()
        )


async def test_a_client_whose_worker_runs_is_left_alone(
    coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path
) -> None:
    with (
        private_state.locked(tmp_path / "alice"),
        pytest.raises(private_state.PrivateStateError, match="in use by another worker"),
    ):
        await personalize_clients(
            worker_config(tmp_path, "tiny", "alice"), SETTINGS, 1, threading.Event()
        )
