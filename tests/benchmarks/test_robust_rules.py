"""What a round's aggregation costs by its rule: seconds, and the process's memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.arrays import Array
from shared.federation.plans import TrainingPlan, find_preset
from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from shared.tensors.encodings import encoding_for
from shared.tensors.factored_encoding import is_matrix
from shared.tensors.low_rank import FactoredDelta
from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.updates import update_bytes
from worker.methods import build_method

pytestmark = pytest.mark.benchmark

_FEW, _MANY = 20, 100
_RANK = 3
_HYPERPARAMETERS: dict[int, dict[str, Any]] = {16: {}, 128: find_preset("hyperfl", "paper", 200)}


def _rules(num_clients: int) -> dict[str, dict[str, Any]]:
    """Every rule, the robust ones against a tenth of the clients."""
    hostile = num_clients // 10
    return {
        "mean": {"rule": "mean"},
        "median": {"rule": "median"},
        "trimmed mean": {"rule": "trimmed-mean", "trim_fraction": 0.1},
        "Multi-Krum": {"rule": "multi-krum", "hostile_clients": hostile},
    }


def _specification(hidden: int, encoding: str, num_clients: int) -> FederationSpecification:
    training = TrainingPlan(
        method="hyperfl",
        model="cnn-mnist",
        image_shape=(1, 28, 28),
        num_classes=10,
        hyperparameters=_HYPERPARAMETERS[hidden],
    )
    return FederationSpecification(
        name="robust",
        parameters=build_method(training, torch.device("cpu")).parameters(1),
        training=training,
        round_policy=RoundPolicy(
            rounds=1, minimum_updates=num_clients, deadline_seconds=86400.0, evaluate_final=False
        ),
        encoding=EncodingPlan.model_validate({"name": encoding}),
    )


def _changes(specification: FederationSpecification, client: int) -> dict[str, Any]:
    """Random changes, of as many components as an update may have where they are factored."""
    generator = np.random.default_rng(client)

    def draw(*shape: int) -> Array:
        return generator.standard_normal(shape, np.float32) * np.float32(1e-3)

    return {
        tensor.name: (
            FactoredDelta(-1e-3, draw(_RANK, tensor.shape[0]), draw(_RANK, tensor.shape[1]))
            if specification.encoding.name == "factored" and is_matrix(tensor)
            else draw(*tensor.shape)
        )
        for tensor in specification.parameters.tensors
    }


@dataclass(frozen=True)
class _Cost:
    seconds: float
    peak_memory_mb: float


async def _send_updates(
    coordinator: RunningCoordinator, specification: FederationSpecification, names: list[str]
) -> None:
    encoding = encoding_for(specification.encoding)
    base = specification.parameters.initial_values()
    for index, name in enumerate(names):
        changes = _changes(specification, index)
        wire = encoding.encode(changes, {}, base, specification.parameters).wire
        task = await coordinator.task(specification.name, name)
        body = update_bytes(specification, task, wire, encoding=specification.encoding.name)
        assert (await coordinator.put(task, body)).status_code == 201


def _measure(database_url: str, rule: dict[str, Any]) -> _Cost:
    """One aggregation in a process of its own, which is as large as a coordinator."""
    command = ["-m", "tests.benchmarks.aggregate_once", database_url, json.dumps(rule)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _Cost(**json.loads(done.stdout))


async def _costs(hidden: int, encoding: str, num_clients: int, folder: Path) -> dict[str, _Cost]:
    """By rule, of the same updates."""
    folder.mkdir()
    specification = _specification(hidden, encoding, num_clients)
    url = f"sqlite:///{folder / 'coordinator.db'}"
    async with running_coordinator(url, folder) as coordinator:
        names = [f"client-{index:03d}" for index in range(num_clients)]
        await coordinator.started(specification, *names)
        await _send_updates(coordinator, specification, names)
    costs = {rule: _measure(url, plan) for rule, plan in _rules(num_clients).items()}
    shutil.rmtree(folder)
    return costs


@pytest.mark.parametrize("hidden", [16, 128])
async def test_rules(hidden: int, report: Report, tmp_path: Path) -> None:
    measurements = []
    for encoding in ("factored", "dense"):
        for number in (_FEW, _MANY):
            costs = await _costs(hidden, encoding, number, tmp_path / f"{encoding}-{number}")
            what = f"{encoding}, {number} clients"
            measurements += [
                Measurement(f"{what}: {rule}", cost.seconds, "s") for rule, cost in costs.items()
            ]
            peak = max(cost.peak_memory_mb for cost in costs.values())
            measurements.append(Measurement(f"{what}: peak memory, any rule", peak, "MB"))
    report(f"rules of aggregation, {hidden} hidden", measurements)
