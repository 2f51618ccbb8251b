"""What the newest weights are worth to each hosted client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shared.arrays import NamedArrays, digest_arrays
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import hosted_client, stub_parts, worker_config
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.errors import ConfigError, PrivateStateError
from worker.methods.interface import Participant
from worker.operations.evaluation import evaluate_clients
from worker.settings import WorkerSettings
from worker.site import state_lock
from worker.site.private_state import FILE_NAME

SETTINGS = WorkerSettings(device="cpu")

Evaluate = Callable[..., Awaitable[list[dict[str, Any]]]]
"""The rows of the clients with these names."""


class RememberingMethod(StubMethod):
    """Remembers the weights that it evaluates."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        super().__init__(coordinator.specification.parameters)
        self.evaluated: list[str] = []

    def evaluate(self, participant: Participant, weights: NamedArrays) -> dict[str, float]:
        self.evaluated.append(digest_arrays(weights))
        return super().evaluate(participant, weights)


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification())


@pytest.fixture
def method(coordinator: FakeCoordinator) -> RememberingMethod:
    return RememberingMethod(coordinator)


@pytest.fixture
def evaluate(coordinator: FakeCoordinator, method: RememberingMethod, tmp_path: Path) -> Evaluate:
    parts = stub_parts(method, coordinator.transport)
    return lambda *names, untrained=False: evaluate_clients(
        worker_config(tmp_path, "tiny", *names), SETTINGS, parts, untrained=untrained
    )


def train(coordinator: FakeCoordinator, folder: Path, name: str, embedding: float) -> None:
    """As if a round had changed the client's embedding."""
    client = hosted_client(coordinator, folder, name)
    client.state.tensors["embedding"] += embedding
    client.save(client.state)


async def test_each_client_is_evaluated_with_its_own_tensors_and_the_newest_weights(
    coordinator: FakeCoordinator, method: RememberingMethod, evaluate: Evaluate, tmp_path: Path
) -> None:
    coordinator.add_version(1)
    coordinator.add_version(2)
    train(coordinator, tmp_path, "alice", 1.0)
    train(coordinator, tmp_path, "bob", 2.0)
    rows = await evaluate("alice", "bob")
    expected = {"weights_version": 2, "accuracy": 0.25, "num_test_examples": 7}
    assert rows == [
        {"client": "alice", "loss": 3.0} | expected,
        {"client": "bob", "loss": 6.0} | expected,
    ]
    assert method.evaluated == [coordinator.digest(2)] * 2


async def test_nothing_is_uploaded_and_no_state_is_changed(
    coordinator: FakeCoordinator, method: RememberingMethod, evaluate: Evaluate, tmp_path: Path
) -> None:
    coordinator.add_task("alice")
    train(coordinator, tmp_path, "alice", 1.0)
    before = (tmp_path / "alice" / FILE_NAME).read_bytes()
    await evaluate("alice")
    asked = {(request.method, request.url.path) for request in coordinator.requests}
    assert asked == {("POST", "/v1/enrolments"), ("GET", "/v1/federations/tiny")}
    assert method.trained == []
    assert (tmp_path / "alice" / FILE_NAME).read_bytes() == before


async def test_clients_that_have_trained_nothing_are_named_and_not_measured(
    coordinator: FakeCoordinator, method: RememberingMethod, evaluate: Evaluate, tmp_path: Path
) -> None:
    train(coordinator, tmp_path, "bob", 2.0)
    with pytest.raises(ConfigError, match=r"by alice, carol, .* personalize.* --untrained"):
        await evaluate("alice", "bob", "carol")
    assert method.evaluated == []


async def test_the_weights_before_the_first_round_are_evaluated_on_demand(
    coordinator: FakeCoordinator, method: RememberingMethod, evaluate: Evaluate
) -> None:
    (row,) = await evaluate("alice", untrained=True)
    assert row["weights_version"] == 0
    assert method.evaluated == [coordinator.digest(0)]


async def test_a_client_whose_worker_runs_is_not_evaluated_beside_it(
    coordinator: FakeCoordinator, method: RememberingMethod, evaluate: Evaluate, tmp_path: Path
) -> None:
    with (
        state_lock.locked(tmp_path / "alice"),
        pytest.raises(PrivateStateError, match="in use by another worker"),
    ):
        await evaluate("alice")
    assert method.evaluated == []
