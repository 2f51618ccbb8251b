"""What a round costs beside training: one coordinator and one worker with 20 idle clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from shared.federation.plans import TrainingPlan
from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from tests.benchmarks.conftest import Report
from tests.benchmarks.idle_method import Idle
from tests.benchmarks.measurements import Measurement, bytes_written, peak_memory_mb
from tests.support.processes import ServingCoordinator, serving_coordinator, worker_toml
from worker.demo.processes import run_in_background, stream_step
from worker.methods.interface import SiteResources

pytestmark = pytest.mark.benchmark

_NUM_CLIENTS = 20
_DATA = (
    f'dataset = "digits"\npartition = "iid"\nnum_clients = {_NUM_CLIENTS}\nclient_index = {{index}}'
)


@dataclass(frozen=True)
class _Cost:
    seconds: list[float]
    peak_memory_mb: float
    bytes_received: int
    bytes_written: int


def _specification(rows: int, columns: int, rounds: int) -> FederationSpecification:
    training = TrainingPlan(
        method="tests.benchmarks.idle_method:Idle",
        model="cnn-mnist",
        image_shape=(1, 8, 8),
        num_classes=10,
        hyperparameters={"rows": rows, "columns": columns},
    )
    return FederationSpecification(
        name="idle",
        parameters=Idle(training, torch.device("cpu"), SiteResources()).parameters(1),
        training=training,
        round_policy=RoundPolicy(rounds=rounds, cohort_size=_NUM_CLIENTS, evaluate_final=False),
        encoding=EncodingPlan(name="dense"),
    )


def _run(folder: Path, specification: FederationSpecification) -> _Cost:
    with serving_coordinator(folder) as coordinator:
        file = folder / "idle.json"
        file.write_text(specification.model_dump_json())
        assert coordinator.admin("federation", "create", file).exit_code == 0
        names = [f"client-{index:02d}" for index in range(_NUM_CLIENTS)]
        clients = coordinator.invite("idle", *names)
        config = folder / "worker.toml"
        config.write_text(worker_toml(coordinator.url, "idle", clients, _DATA))
        written_before = bytes_written(coordinator.process.process.pid)
        with run_in_background("worker", folder, "worker", "run", "--config", str(config)):
            assert coordinator.admin("federation", "start", "idle").exit_code == 0
            rounds = _watch(coordinator)
        pid = coordinator.process.process.pid
        return _Cost(
            [_seconds(round_) for round_ in rounds],
            peak_memory_mb(pid),
            sum(round_["bytes_up"] for round_ in rounds),
            bytes_written(pid) - written_before,
        )


def _watch(coordinator: ServingCoordinator) -> list[dict[str, Any]]:
    options = ("--url", coordinator.url, "--admin-token-file", str(coordinator.admin_token_file))
    lines = stream_step("round", "watch", "idle", *options, "--json")
    rounds = [line["round"] for line in lines if line is not None and "round" in line]
    assert all(round_["phase"] == "committed" for round_ in rounds)
    return rounds


def _seconds(round_: dict[str, Any]) -> float:
    opened, closed = (datetime.fromisoformat(round_[key]) for key in ("opened_at", "closed_at"))
    return (closed - opened).total_seconds()


def test_a_small_model(report: Report, tmp_path: Path) -> None:
    cost = _run(tmp_path, _specification(rows=250, columns=100, rounds=21))
    report(
        "protocol, 0.1 MB model",
        [
            Measurement("a round of 20 clients", median(cost.seconds[1:]), "s", 0.5),
            Measurement("coordinator's peak memory", cost.peak_memory_mb, "MB"),
        ],
    )


def test_large_dense_updates(report: Report, tmp_path: Path) -> None:
    cost = _run(tmp_path, _specification(rows=115_776, columns=129, rounds=4))
    report(
        "protocol, 59.7 MB dense",
        [
            Measurement("a round of 20 clients", median(cost.seconds[1:]), "s", 15.0),
            Measurement("coordinator's peak memory", cost.peak_memory_mb, "MB", 600.0),
            Measurement(
                "written to disk per byte received",
                cost.bytes_written / cost.bytes_received,
                "bytes",
                2.5,
            ),
        ],
    )
