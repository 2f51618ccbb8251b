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


_WAYS = {
    "hyperfl": ("--method", "hyperfl"),
    "aligned": ("--method", "hyperfl", "--preset", "aligned"),
    "fedavg": ("--method", "fedavg"),
}


def demo(way: str, data_dir: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    done = hyperfl(
        *("demo", "--dataset", "fashion-mnist", "--data-dir", data_dir, *_WAYS[way]),
        *("--clients", 20, "--rounds", _ROUNDS, "--json"),
        folder=folder,
    )
    assert done.exit_code == 0, done.errors
    result: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return result


def test_a_round_of_twenty_clients(fashion_mnist: Path, report: Report, tmp_path: Path) -> None:
    # In turns, so that a busy moment hits all.
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    megabytes: dict[str, tuple[float, float]] = {}
    for turn in range(_TURNS):
        for way in _WAYS:
            result = demo(way, fashion_mnist, tmp_path / f"{way}-{turn}")
            seconds[way] += result["seconds_per_round"]
            up, down = (result[f"bytes_{to}_per_client_round"] / 1e6 for to in ("up", "down"))
            megabytes[way] = up, down
    of = {way: median(found) for way, found in seconds.items()}
    report(
        "round, Fashion-MNIST",
        [
            Measurement("a round of 20 clients", of["hyperfl"], "s", 9.0),
            Measurement("a round with the preset aligned", of["aligned"], "s", 9.0),
            Measurement("a round with fedavg", of["fedavg"], "s"),
            Measurement("hyperfl / fedavg", of["hyperfl"] / of["fedavg"], "times", 1.2),
            Measurement("aligned / fedavg", of["aligned"] / of["fedavg"], "times", 1.2),
            Measurement(
                "hyperfl: upload of a client and round", megabytes["hyperfl"][0], "MB", 0.5
            ),
            Measurement(
                "hyperfl: download of a client and round", megabytes["hyperfl"][1], "MB", 0.5
            ),
            Measurement(
                "aligned: upload of a client and round", megabytes["aligned"][0], "MB", 0.5
            ),
            Measurement(
                "aligned: download of a client and round", megabytes["aligned"][1], "MB", 0.5
            ),
        ],
    )
