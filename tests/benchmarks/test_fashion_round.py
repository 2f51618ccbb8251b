"""Whole rounds on Fashion-MNIST as ``hyperfl demo`` runs them: coordinator, worker, HTTP, disk."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement
from tests.support.processes import hyperfl

pytestmark = pytest.mark.benchmark

_ROUNDS, _TURNS = 3, 2


def demo(method: str, data_dir: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    done = hyperfl(
        *("demo", "--dataset", "fashion-mnist", "--data-dir", data_dir, "--method", method),
        *("--clients", 20, "--rounds", _ROUNDS, "--json"),
        folder=folder,
    )
    assert done.exit_code == 0, done.errors
    result: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return result


def test_a_round_of_twenty_clients(fashion_mnist: Path, report: Report, tmp_path: Path) -> None:
    # In turns, so that a busy moment hits both.
    seconds: dict[str, list[float]] = {"hyperfl": [], "fedavg": []}
    for turn in range(_TURNS):
        for method in seconds:
            result = demo(method, fashion_mnist, tmp_path / f"{method}-{turn}")
            seconds[method] += result["seconds_per_round"]
            if method == "hyperfl":
                up = result["bytes_up_per_client_round"]
                down = result["bytes_down_per_client_round"]
    of = {method: median(found) for method, found in seconds.items()}
    report(
        "round, Fashion-MNIST",
        [
            Measurement("a round of 20 clients", of["hyperfl"], "s", 9.0),
            Measurement("a round of 20 clients with fedavg", of["fedavg"], "s"),
            Measurement("hyperfl / fedavg", of["hyperfl"] / of["fedavg"], "times", 1.2),
            Measurement("upload of a client and round", up / 1e6, "MB", 0.5),
            Measurement("download of a client and round", down / 1e6, "MB", 0.5),
        ],
    )
