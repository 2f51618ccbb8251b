"""Results on disk: one JSON line for each finished run, appended as it finishes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from worker.errors import ExperimentError
from worker.experiment.grid import Run

Json = dict[str, Any]


def read_results(file: Path) -> dict[str, Json]:
    """What the demo printed for each finished run, by the run's key.

    Of a run that was made again, the last result counts, and of a file of a backbone's weights, the
    last one that a run was made with: results of others do not compare. A last line without an end
    was being written when the process died, and does not count.

    Raises:
        ExperimentError: any other line is not a result.
    """
    found = list(_read(file))
    digests = {run.backbone_weights: run.backbone_digest for run, _ in found}
    return {
        run.key: result
        for run, result in found
        if run.backbone_digest == digests[run.backbone_weights]
    }


def read_finished(file: Path) -> dict[str, Run]:
    """The finished runs by key, as they were. Raises ExperimentError like :func:`read_results`."""
    return {run.key: run for run, _ in _read(file)}


def _read(file: Path) -> Iterator[tuple[Run, Json]]:
    if not file.exists():
        return
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            document = json.loads(line)
            yield Run.model_validate(document["run"]), dict(document["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError(f"{file}: line {number} is not a result") from error


@contextmanager
def appending(file: Path) -> Iterator[IO[bytes]]:
    """The file for :func:`append`, without a half-written last line, for this process only.

    Raises:
        ExperimentError: another experiment writes to it.
    """
    with file.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExperimentError(f"{file} is in use by another experiment") from error
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        yield stream


def append(stream: IO[bytes], run: Run, result: Json) -> None:
    """Writes one result, and waits until it is on disk."""
    line = json.dumps({"run": run.model_dump(mode="json"), "result": result})
    stream.write(line.encode() + b"\n")
    stream.flush()
    os.fsync(stream.fileno())
