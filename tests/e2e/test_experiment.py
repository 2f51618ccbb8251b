"""An experiment that is ended from outside, goes on, and is reported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.processes import PROJECT

pytestmark = pytest.mark.e2e

_GRID = """
title = "Two seeds"
[[grids]]
methods = ["hyperfl"]
datasets = ["digits"]
clients = [2]
seeds = [1, 2]
rounds = 1
settings = [{ epochs = 1 }]
"""
_COMMAND = (
    sys.executable,
    "-c",
    "from worker.experiment.command import experiment; experiment()",
)


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*_COMMAND, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def _run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = _start(folder, *arguments)
    output, errors = process.communicate()
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_experiment_that_was_ended_goes_on_and_is_reported(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "grid.toml").write_text(_GRID)
    results = tmp_path / "RESULTS.jsonl"
    first = _start(tmp_path, "run", "grid.toml")
    with first:
        _wait_until(lambda: results.exists() and results.read_bytes().endswith(b"\n"))
        # The second run has begun: coordinator or worker stand below the demo.
        experiment = psutil.Process(first.pid)
        _wait_until(lambda: len(experiment.children(recursive=True)) >= 2)
        descendants = experiment.children(recursive=True)
        first.send_signal(number)
        assert first.wait(60) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        # Nobody could tell the demo of a SIGKILL: it finds out, and ends what it started.
        _, alive = psutil.wait_procs(descendants, timeout=90)
        assert alive == []

    code, output, errors = _run(tmp_path, "run", "grid.toml", "--json")
    assert code == 0, errors
    assert json.loads(output) == {
        "results": "RESULTS.jsonl",
        "runs": 2,
        "skipped": 1,
        "finished": 1,
        "failed": 0,
    }
    code, output, errors = _run(tmp_path, "report", "grid.toml", "--no-plots")
    assert code == 0, errors
    assert "2 of 2 runs are finished." in output
    assert (tmp_path / "grid-report" / "report.md").read_text() in output
    rounds = json.loads(results.read_text().splitlines()[0])["result"]["rounds_detail"]
    assert rounds[0].keys() >= {
        *(f"{what}_{when}" for what in ("accuracy", "loss") for when in ("before", "after")),
        *("bytes_up", "bytes_down", "seconds"),
    }


def test_embeddings_are_kept_and_drawn_only_where_asked_for(tmp_path: Path) -> None:
    grid = _GRID.replace("clients = [2]", "clients = [5]").replace("[1, 2]", "[1]")
    (tmp_path / "grid.toml").write_text(grid)
    code, _, errors = _run(tmp_path, "run", "grid.toml", "--keep-embeddings", "kept")
    assert code == 0, errors
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.suffix == ".safetensors", "of the private states nothing else is left"
    for options in ((), ("--embeddings", "kept")):
        code, output, errors = _run(tmp_path, "report", "grid.toml", "--json", *options)
        assert code == 0, errors
        plots = {Path(plot).name for plot in json.loads(output)["plots"]}
        assert plots >= {"accuracy.png", "loss.png", "bytes.png", "seconds.png", "labels.png"}
        assert ("embeddings.png" in plots) == bool(options)


def test_a_run_that_fails_is_reported_and_the_command_fails(tmp_path: Path) -> None:
    grid = _GRID.replace("seeds = [1, 2]", 'seeds = [1]\nmodels = ["absent.models:f"]')
    (tmp_path / "grid.toml").write_text(grid)
    code, output, errors = _run(tmp_path, "run", "grid.toml", "--json")
    assert code == 1
    assert json.loads(output)["failed"] == 1
    assert "cannot import 'absent.models'" in errors
    code, _, errors = _run(tmp_path, "report", "grid.toml")
    assert code == 2
    assert errors == (
        "error: no run of grid.toml is finished; start with `hyperfl experiment run`\n"
    )
