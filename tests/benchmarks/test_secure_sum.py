"""What a secure sum costs: against a plain round, in bytes, and with many members."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement, peak_memory_mb
from tests.benchmarks.sum_load import run_sum
from tests.support.processes import hyperfl, serving_coordinator

pytestmark = pytest.mark.benchmark

_NUMBERS = (20, 100, 300, 1000)
_ROUNDS = 4


def test_a_protected_round_of_twenty_clients(
    fashion_mnist: Path, report: Report, tmp_path: Path
) -> None:
    seconds: dict[str, float] = {}
    upload = 0.0
    for protection in ("none", "secure-sum"):
        done = hyperfl(
            *("demo", "--dataset", "fashion-mnist", "--data-dir", fashion_mnist),
            *("--clients", 20, "--rounds", _ROUNDS, "--json"),
            *("--set", "shared_part=output-bias", "--encoding", "dense"),
            *("--protection", protection),
            folder=tmp_path,
        )
        assert done.exit_code == 0, done.errors
        result = json.loads(done.output.splitlines()[-1])
        seconds[protection] = median(result["seconds_per_round"])
        upload = result["bytes_up_per_client_round"]
    report(
        "secure sum, Fashion-MNIST",
        [
            Measurement("a plain round of 20 clients", seconds["none"], "s"),
            Measurement("a protected round of 20 clients", seconds["secure-sum"], "s"),
            Measurement(
                "protected / plain", seconds["secure-sum"] / seconds["none"], "times", 1.15
            ),
            Measurement("upload of a client and round", upload / 1e6, "MB", 1.0),
        ],
    )


def test_many_members(report: Report, tmp_path: Path) -> None:
    measured: list[Measurement] = []
    memories: list[float] = []
    for number in _NUMBERS:
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving_coordinator(folder) as coordinator:
            token = coordinator.admin_token_file.read_text().strip()
            load = run_sum(coordinator.url, token, number)
            memories.append(peak_memory_mb(coordinator.process.process.pid))
        database = sum(file.stat().st_size for file in folder.glob("coordinator/hyperfl.db*"))
        most_bytes = {20: 20.0, 100: 120.0}.get(number)
        measured += [
            *(
                Measurement(f"{number} members: {phase}", seconds, "s")
                for phase, seconds in _seconds_by_phase(coordinator.process.log_file).items()
            ),
            Measurement(
                f"{number} members: a member's exchange beside its update",
                load.bytes_each / 1e3,
                "kB",
                most_bytes,
            ),
            Measurement(f"{number} members: coordinator's peak memory", memories[-1], "MB"),
            Measurement(f"{number} members: database", database / 1e6, "MB"),
        ]
    ratio = memories[-1] / memories[0]
    what = f"memory, {_NUMBERS[-1]:,} over {_NUMBERS[0]}"
    report("secure sum, many members", [*measured, Measurement(what, ratio, "times", 1.1)])


_EVENTS = ("round opened", "phase begun", "round aggregating", "round committed")


def _seconds_by_phase(log_file: Path) -> dict[str, float]:
    """How long each phase of the first round took, and the round."""
    lines = [json.loads(line) for line in log_file.read_text().splitlines() if line[:1] == "{"]
    begun = [line for line in lines if line["event"] in _EVENTS and line["round"] == 1]
    times = [datetime.fromisoformat(line["timestamp"]) for line in begun]
    phases = ["joining", *(line.get("phase", "aggregating") for line in begun[1:])]
    seconds = {
        "updates" if phase == "open" else phase: (end - start).total_seconds()
        for phase, (start, end) in zip(phases, pairwise(times), strict=False)
    }
    return seconds | {"a round": (times[-1] - times[0]).total_seconds()}
