"""What somebody waits for after typing ``hyperfl demo``: until the first round opens."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest

from shared.terminal.command_line import command_line
from tests.benchmarks.conftest import Report
from tests.benchmarks.measurements import Measurement
from worker.demo.processes import BackgroundProcess, ended_after

pytestmark = pytest.mark.benchmark

_REPEATS = 5


def test_a_demo_from_command_to_first_round(report: Report, tmp_path: Path) -> None:
    seconds = [_seconds_to_first_round(tmp_path / str(number)) for number in range(_REPEATS)]
    report(
        "demo, start",
        [Measurement("demo: from command to first round", median(seconds), "s", 6.0)],
    )


def _seconds_to_first_round(folder: Path) -> float:
    started = time.time()
    with ended_after(
        subprocess.Popen(
            command_line("demo", "--state-dir", str(folder)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    ) as demo:
        log_file = folder / "coordinator.log"
        while not log_file.exists():
            assert demo.poll() is None
            time.sleep(0.05)
        coordinator = BackgroundProcess("demo", demo, log_file)
        opened = coordinator.wait_for_event("round opened", longest_seconds=120.0)
    return datetime.fromisoformat(opened["timestamp"]).timestamp() - started
