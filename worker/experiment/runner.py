"""Runs what is missing of an experiment, one ``hyperfl demo`` after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from worker.experiment.grid import ExperimentError, Run
from worker.experiment.results import append, appending, read_results

_STOP_SECONDS = 60
Execute = Callable[[Run], dict[str, Any]]


class RunFailedError(Exception):
    """One run failed; the message is its last words."""


def run_missing(
    runs: Iterable[Run],
    file: Path,
    execute: Execute,
    on_progress: Callable[[Run, str], None],
) -> list[Run]:
    """Executes every run whose key is not in ``file`` and appends its result; returns who failed.

    A failed run leaves no result, so the next call tries it again.

    Args:
        runs: in the order to execute.
        file: of results.
        execute: gives a run's result, or raises RunFailedError.
        on_progress: told of each run that it is ``skipped``, ``running``, ``finished`` or
            ``failed: WHY``.
    """
    failed = []
    with appending(file) as stream:
        finished = read_results(file)
        for run in runs:
            if run.key in finished:
                on_progress(run, "skipped")
                continue
            on_progress(run, "running")
            try:
                result = execute(run)
            except RunFailedError as error:
                on_progress(run, f"failed: {error}")
                failed.append(run)
                continue
            append(stream, run, result)
            on_progress(run, "finished")
    return failed


def find_data_dirs(runs: Iterable[Run], root: Path | None) -> dict[str, Path | None]:
    """The folder of each data set: that of its name under ``root``; digits need none.

    Raises:
        ExperimentError: a data set has no folder.
    """
    folders: dict[str, Path | None] = {}
    for dataset in sorted({run.dataset for run in runs}):
        if dataset == "digits":
            folders[dataset] = None
            continue
        if root is None:
            raise ExperimentError(f"say with --data-dir which folder has {dataset}/ in it")
        folder = root / dataset
        if not folder.is_dir():
            raise ExperimentError(f"{folder} is not a folder")
        folders[dataset] = folder.resolve()
    return folders


def run_demo(run: Run, data_dir: Path | None, folder: Path) -> dict[str, Any]:
    """The result of a run, made by processes of its own; ``folder`` is that of the grid's file.

    Raises:
        RunFailedError: the demo failed.
    """
    command = [sys.executable, "-m", "coordinator", *run.arguments(data_dir, folder)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            output, _ = process.communicate()
        except BaseException:
            # On this the demo ends its own processes first.
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if process.returncode != 0:
        raise RunFailedError(said[-1].removeprefix("error: ") if said else "it said nothing")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result
