"""An experiment that is ended from outside, goes on, and is reported."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared.terminal.command_line import command_line
from tests.support.processes import ENVIRONMENT, Finished, hyperfl_here

pytestmark = pytest.mark.e2e

# Five clients, since fewer embeddings are not drawn.
_GRID = """
title = "Two seeds"
[[grids]]
methods = ["hyperfl"]
datasets = ["image-folder"]
models = ["tests.support.extractors:tiny"]
image_shape = "1x4x4"
clients = [5]
seeds = [1, 2]
rounds = 1
settings = [{ epochs = 1 }]
"""


def _start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line("experiment", *map(str, arguments)),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def _run(folder: Path, *arguments: object) -> Finished:
    process = _start(folder, *arguments)
    output, errors = process.communicate()
    return Finished(process.returncode, output, errors)


def _end_in_the_second_run(folder: Path, number: signal.Signals, *arguments: object) -> None:
    """Sends a signal to an experiment that has one result, and to nobody else."""
    results = folder / "RESULTS.jsonl"
    with _start(folder, *arguments) as process:
        _wait_until(lambda: results.exists() and results.read_bytes().endswith(b"\n"))
        # The second run has begun: coordinator or worker stand below the demo.
        experiment = psutil.Process(process.pid)
        _wait_until(lambda: len(experiment.children(recursive=True)) >= 2)
        descendants = experiment.children(recursive=True)
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        # Nobody could tell the demo of a SIGKILL: it finds out, and ends what it started.
        _, alive = psutil.wait_procs(descendants, timeout=90)
        assert alive == []
    assert results.read_text().count("\n") == 1


@pytest.fixture(scope="module")
def finished(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that was ended twice in its second run, and then went on."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "grid.toml").write_text(_GRID)
    run = ("run", "grid.toml", "--data-dir", data_root, "--keep-embeddings", "kept")
    for number in (signal.SIGTERM, signal.SIGKILL):
        _end_in_the_second_run(folder, number, *run)
    done = _run(folder, *run, "--json")
    assert done.json == {
        "results": "RESULTS.jsonl",
        "runs": 2,
        "skipped": 1,
        "finished": 1,
        "failed": 0,
    }
    return folder


def test_an_experiment_that_was_ended_goes_on_and_is_reported(
    finished: Path, data_root: Path
) -> None:
    done = _run(finished, "report", "grid.toml", "--data-dir", data_root, "--no-plots")
    assert done.exit_code == 0, done.errors
    assert "2 of 2 runs are finished." in done.output
    assert (finished / "grid-report" / "report.md").read_text() in done.output
    results = (finished / "RESULTS.jsonl").read_text().splitlines()
    rounds = json.loads(results[0])["result"]["rounds_detail"]
    assert rounds[0].keys() >= {
        *(f"{what}_{when}" for what in ("accuracy", "loss") for when in ("before", "after")),
        *("bytes_up", "bytes_down", "seconds"),
    }


def test_embeddings_are_kept_and_drawn_only_where_asked_for(
    finished: Path, data_root: Path
) -> None:
    kept = list((finished / "kept").iterdir())
    assert [file.suffix for file in kept] == [".safetensors"] * 2, (
        "of the private states nothing else is left"
    )
    for options in ((), ("--embeddings", "kept")):
        done = hyperfl_here(
            *("experiment", "report", "grid.toml", "--data-dir", data_root, "--json", *options),
            folder=finished,
        )
        plots = {Path(plot).name for plot in done.json["plots"]}
        assert plots >= {"accuracy.png", "loss.png", "bytes.png", "seconds.png", "labels.png"}
        assert ("embeddings.png" in plots) == bool(options)


def test_a_run_that_fails_is_reported_and_the_command_fails(tmp_path: Path) -> None:
    grid = _GRID.replace("[1, 2]", "[1]").replace(
        "tests.support.extractors:tiny", "absent.models:f"
    )
    grid = grid.replace("image-folder", "digits")
    (tmp_path / "grid.toml").write_text(grid)
    done = hyperfl_here("experiment", "run", "grid.toml", "--json", folder=tmp_path)
    assert done.exit_code == 1
    assert json.loads(done.output)["failed"] == 1
    assert "cannot import 'absent.models'" in done.errors
    done = hyperfl_here("experiment", "report", "grid.toml", folder=tmp_path)
    assert done.exit_code == 2
    assert done.errors == (
        "error: no run of grid.toml is finished; start with `hyperfl experiment run`\n"
    )
