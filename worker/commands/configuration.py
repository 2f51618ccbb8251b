"""What the worker's commands have in common: the TOML file that they read, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from shared.terminal.failures import INVALID_INPUT, fail, one_line_errors
from worker.errors import FAILURES, ConfigError
from worker.files import naming
from worker.settings import WorkerConfig, WorkerSettings, load_config

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="The worker's TOML file; the default is HYPERFL_WORKER_CONFIG."),
]
WhichOption = Annotated[
    str,
    typer.Option(
        help="final: the newest weights. best: what was best on the validation split, kept at the "
        "site. A number: this version of a method without private tensors."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
UntrainedOption = Annotated[
    bool,
    typer.Option("--untrained", help="Also for a client that has trained nothing of its own."),
]


def dash_is_stdout(file: Path | None) -> Path | None:
    """Callback of an option whose default is stdout: ``-`` is no file, as for other programs."""
    return None if file == Path("-") else file


@contextmanager
def failures() -> Iterator[None]:
    """As for every command; and code of the user's own that ends the process has failed."""
    with one_line_errors(*FAILURES):
        try:
            yield
        except SystemExit as error:
            fail(f"the federation's method or model asked to end: exit code {error.code or 0}")


def load(config: Path | None) -> tuple[WorkerConfig, WorkerSettings]:
    """What the TOML file and the environment say.

    Raises:
        ConfigError: they cannot be used.
    """
    settings = WorkerSettings()
    file = config or settings.worker_config
    if file is None:
        fail("give the worker's TOML file with --config or HYPERFL_WORKER_CONFIG", INVALID_INPUT)
    return load_config(file, settings), settings


def write_new(file: Path, text: str) -> None:
    """Writes a file that does not exist yet; if that fails there is none.

    Raises:
        ConfigError: it exists, and is left as it is.
        OSError: the disk does not take it.
    """
    try:
        stream = file.open("x")
    except FileExistsError as error:
        raise ConfigError(f"{file} exists, and is left as it is") from error
    try:
        with naming(file), stream:
            stream.write(text)
    except OSError:
        file.unlink(missing_ok=True)
        raise
