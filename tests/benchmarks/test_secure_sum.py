"""What a secure sum costs: against a plain round, in bytes, and with many members."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement, peak_memory_mb
from tests.benchmarks.sum_load import SumLoad, run_sum
from tests.support.processes import hyperfl, serving_coordinator

pytestmark = pytest.mark.benchmark

_NUMBERS = (20, 100, 300)
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
    loads: dict[int, tuple[SumLoad, float]] = {}
    for number in _NUMBERS:
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving_coordinator(folder) as coordinator:
            token = coordinator.admin_token_file.read_text().strip()
            load = asyncio.run(run_sum(coordinator.url, token, number))
            loads[number] = (load, peak_memory_mb(coordinator.process.process.pid))
    most_bytes = {20: 20.0, 100: 120.0}
    few, many = loads[_NUMBERS[0]][1], loads[_NUMBERS[-1]][1]
    report(
        "secure sum, many members",
        [
            *(
                measurement
                for number, (load, memory) in loads.items()
                for measurement in (
                    Measurement(f"{number} members: a round", load.seconds, "s"),
                    Measurement(f"{number} members: unmasking", load.unmasking, "s"),
                    Measurement(
                        f"{number} members: a member's exchange beside its update",
                        load.bytes_each / 1e3,
                        "kB",
                        most_bytes.get(number),
                    ),
                    Measurement(f"{number} members: coordinator's peak memory", memory, "MB"),
                )
            ),
            Measurement(f"memory, {_NUMBERS[-1]} over {_NUMBERS[0]}", many / few, "times", 1.1),
        ],
    )
