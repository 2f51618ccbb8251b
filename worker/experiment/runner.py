"""Runs what is missing of an experiment, one ``hyperfl demo`` after the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shared.terminal.command_line import command_line
from worker.errors import ExperimentError, RunFailedError
from worker.experiment.grid import Run
from worker.experiment.results import append, appending, read_finished

WITHOUT_FOLDER = frozenset({"digits"})
"""Data sets that need no folder."""
_STOP_SECONDS = 60
Json = dict[str, Any]
Execute = Callable[[Run], Json]


def run_missing(
    runs: Iterable[Run],
    file: Path,
    execute: Execute,
    on_progress: Callable[[Run, str], None],
) -> list[Run]:
    """Executes every run that ``file`` has no result of and appends its own; returns who failed.

    What was made with other hyperparameters or another backbone is no result of the run.
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
        finished = read_finished(file)
        for run in runs:
            made = finished.get(run.key)
            if made is not None and made.backbone_digest == run.backbone_digest:
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
        if dataset in WITHOUT_FOLDER:
            folders[dataset] = None
            continue
        if root is None:
            raise ExperimentError(f"give the folder that contains {dataset}/ with --data-dir")
        folder = root / dataset
        if not folder.is_dir():
            raise ExperimentError(f"{folder} is not a folder")
        folders[dataset] = folder.resolve()
    return folders


def demo_in_processes(arguments: list[str]) -> Json:
    """What ``hyperfl`` prints with ``arguments``, which are those of a demo in JSON.

    Raises:
        RunFailedError: the demo failed.
    """
    # A killed experiment must not leave its demo beside the one that the next experiment starts.
    command = command_line(*arguments, "--parent", str(os.getpid()))
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
        raise RunFailedError(
            said[-1].removeprefix("error: ") if said else "the demo printed no error"
        )
    result: Json = json.loads(output.splitlines()[-1])
    return result


def run_demo(
    run: Run,
    data_dir: Path | None,
    folder: Path,
    embeddings: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
    demo: Callable[[list[str]], Json] = demo_in_processes,
) -> Json:
    """The result of a run, made by processes of its own.

    Args:
        run: to make.
        data_dir: folder of its data set.
        folder: of the grid's file, where a backbone's weights lie.
        embeddings: folder to keep the clients' private embeddings in; None keeps nothing.
        warn: told why embeddings of a run that has a result could not be kept.
        demo: runs ``hyperfl`` with the arguments of a demo, and returns its result.

    Raises:
        RunFailedError: the demo failed.
    """
    arguments = run.arguments(data_dir, folder)
    if embeddings is None:
        return demo(arguments)
    from worker.errors import PrivateStateError  # noqa: PLC0415 - torch
    from worker.experiment.embeddings import embeddings_file, keep_embeddings  # noqa: PLC0415

    # Named after the run: if a kill leaves private states here, the same run removes them.
    states = embeddings_file(run, embeddings).with_suffix(".running")
    shutil.rmtree(states, ignore_errors=True)
    states.mkdir(parents=True, mode=0o700)
    try:
        result = demo([*arguments, "--state-dir", str(states / "demo")])
        try:
            keep_embeddings(run, states / "demo" / "state", embeddings)
        except (PrivateStateError, OSError) as error:
            warn(f"{run.describe()}: its embeddings could not be kept: {error}")
    finally:
        shutil.rmtree(states, ignore_errors=True)
    return result
