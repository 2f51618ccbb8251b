"""Personalising hosted clients: one write each, nothing uploaded, no pending update lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from shared.arrays import NamedArrays
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import (
    hosted_client,
    saved_state,
    stub_parts,
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
from worker.operations.personalization import personalize_clients
from worker.settings import WorkerSettings
from worker.site import private_state, state_lock
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
def coordinator() -> FakeCoordinator:
    made = FakeCoordinator(tiny_specification())
    made.add_version(1)
    return made


@pytest.fixture
def method(coordinator: FakeCoordinator) -> PersonalizingMethod:
    return PersonalizingMethod(coordinator.specification.parameters)


@dataclass
class Site:
    """Where clients are personalised."""

    coordinator: FakeCoordinator
    method: StubMethod
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)

    async def personalize(self, *names: str, epochs: int = 1) -> list[dict[str, Any]]:
        config = worker_config(self.folder, "tiny", *names)
        parts = stub_parts(self.method, self.coordinator.transport)
        return await personalize_clients(config, SETTINGS, epochs, self.stop, parts)


@pytest.fixture
def site(coordinator: FakeCoordinator, method: PersonalizingMethod, tmp_path: Path) -> Site:
    return Site(coordinator, method, tmp_path)


async def test_a_client_that_never_took_part_gets_private_tensors_of_its_own(
    coordinator: FakeCoordinator, site: Site, tmp_path: Path
) -> None:
    (row,) = await site.personalize("alice", epochs=2)
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
    coordinator: FakeCoordinator, site: Site, tmp_path: Path
) -> None:
    alice = hosted_client(coordinator, tmp_path, "alice")
    residual = {"hypernetwork.trunk.bias": torch.ones(2).numpy()}
    alice.save(replace(alice.state, last_round=3, residual=residual, seed=99))
    await site.personalize("alice")
    state = saved_state(coordinator, tmp_path, "alice")
    assert state is not None
    assert (state.last_round, state.seed) == (3, 99)
    assert state.residual["hypernetwork.trunk.bias"].tolist() == [1.0, 1.0]


async def test_no_client_is_touched_while_one_has_a_pending_update(
    coordinator: FakeCoordinator, site: Site, tmp_path: Path
) -> None:
    hosted_client(coordinator, tmp_path, "alice")
    bob = hosted_client(coordinator, tmp_path, "bob")
    bob.save(replace(bob.state, pending=PendingUpdate(TaskKind.TRAIN, 1, 0, b"update")))
    before = [(tmp_path / name / FILE_NAME).read_bytes() for name in ("alice", "bob")]
    with pytest.raises(ConfigError, match="client bob has an update that the coordinator has not"):
        await site.personalize("alice", "bob")
    assert [(tmp_path / name / FILE_NAME).read_bytes() for name in ("alice", "bob")] == before


async def test_a_stop_keeps_who_is_done_and_leaves_the_others(
    coordinator: FakeCoordinator, method: PersonalizingMethod, site: Site, tmp_path: Path
) -> None:
    method.before_step = lambda participant: site.stop.set() if participant.name == "bob" else None
    with pytest.raises(TrainingInterrupted, match="before client bob was done"):
        await site.personalize("alice", "bob", epochs=5)
    embeddings = []
    for name in ("alice", "bob"):
        state = saved_state(coordinator, tmp_path, name)
        assert state is not None
        embeddings.append(state.tensors["embedding"].tolist())
    assert embeddings == [[5.0] * 3, [0.0] * 3]


async def test_a_client_that_diverges_keeps_its_state_and_the_others_go_on(
    coordinator: FakeCoordinator, method: PersonalizingMethod, site: Site, tmp_path: Path
) -> None:
    def diverge(participant: Participant) -> None:
        if participant.name == "alice":
            raise TrainingDivergedError(["alice"])

    method.before_step = diverge
    with structlog.testing.capture_logs() as logs:
        rows = await site.personalize("alice", "bob", epochs=5)
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
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    site = Site(coordinator, StubMethod(coordinator.specification.parameters), tmp_path)
    with pytest.raises(ConfigError, match="method hyperfl cannot personalise"):
        await site.personalize("alice")


async def test_where_nothing_is_shared_there_is_nothing_to_fit_to(tmp_path: Path) -> None:
    training = TrainingPlan(method="local", model="cnn-mnist", image_shape=(1, 4, 4), num_classes=3)
    nothing = ParameterSpecification(seed=1, tensors=())
    made = FakeCoordinator(
        tiny_specification().model_copy(update={"training": training, "parameters": nothing})
    )
    site = Site(made, PersonalizingMethod(nothing), tmp_path)
    with pytest.raises(ConfigError, match="method local shares nothing, so there are no weights"):
        await site.personalize("alice")


async def test_a_client_whose_worker_runs_is_left_alone(site: Site, tmp_path: Path) -> None:
    with (
        state_lock.locked(tmp_path / "alice"),
        pytest.raises(private_state.PrivateStateError, match="in use by another worker"),
    ):
        await site.personalize("alice")
