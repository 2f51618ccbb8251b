"""Whole rounds on Fashion-MNIST as ``hyperfl demo`` runs them: coordinator, worker, HTTP, disk."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement
from tests.support.processes import hyperfl

pytestmark = pytest.mark.benchmark


def test_a_round_of_twenty_clients(fashion_mnist: Path, report: Report, tmp_path: Path) -> None:
    done = hyperfl(
        *("demo", "--dataset", "fashion-mnist", "--data-dir", fashion_mnist),
        *("--clients", 20, "--rounds", 4, "--json"),
        folder=tmp_path,
    )
    assert done.exit_code == 0, done.errors
    result = json.loads(done.output.splitlines()[-1])
    up, down = result["bytes_up_per_client_round"], result["bytes_down_per_client_round"]
    report(
        "round, Fashion-MNIST",
        [
            Measurement("a round of 20 clients", median(result["seconds_per_round"]), "s", 18.0),
            Measurement("upload of a client and round", up / 1e6, "MB", 1.0),
            Measurement("download of a client and round", down / 1e6, "MB", 10.0),
        ],
    )
