"""``hyperfl`` as tests call it: in a process of its own, or in this one; and a coordinator beside.

A process takes a second or, with PyTorch, five to start. Where its start, its signals, its death or
its streams are no part of what a test asks, :func:`hyperfl_here` gives the same answer at once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest
import structlog
from typer.main import get_command

from shared.terminal.cli import app
from shared.terminal.command_line import command_line
from worker.demo.processes import BackgroundProcess, run_in_background

PROJECT = Path(__file__).parents[2]
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """What the command printed, after checking that it succeeded."""
        assert self.exit_code == 0, self.errors
        return json.loads(self.output)


_KEPT = ("OMP_NUM_THREADS",)
BARE_ENVIRONMENT = {"PATH": "/usr/bin:/bin"} | {
    name: os.environ[name] for name in _KEPT if name in os.environ
}
"""Of a process that has only what a test gives it, and the number of threads of this one."""
ENVIRONMENT = BARE_ENVIRONMENT | {"PYTHONPATH": str(PROJECT)}
"""The same, with this project's tests to import from."""


def hyperfl(*arguments: object, folder: Path, **environment: str) -> Finished:
    """Runs ``hyperfl ARGUMENTS`` in ``folder`` to its end, with nothing but ``environment``."""
    done = subprocess.run(
        command_line(*map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        cwd=folder,
        env=ENVIRONMENT | environment,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def hyperfl_here(*arguments: object, folder: Path, **environment: str) -> Finished:
    """The same in this process, whose state is afterwards as it was.

    Processes that the command starts are real and have the same ``environment``. An exception that
    the command lets through, which would be a traceback, is the test's.
    """
    output, errors = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        _own_environment(ENVIRONMENT | environment),
        _own_modules(folder),
        _own_logging(),
        _own_signal_handlers(),
        redirect_stdout(output),
        redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        get_command(app).main([*map(str, arguments)], prog_name="hyperfl")
    assert isinstance(ended.value.code, int)
    return Finished(ended.value.code, output.getvalue(), errors.getvalue())


@contextmanager
def _own_environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """Forgets a user's modules, which lie in ``folder``, and how they were found."""
    assert not PROJECT.is_relative_to(folder), "its own modules stay"
    path, imported = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in sys.modules.keys() - imported:
            known = vars(sys.modules[name])
            places = (known.get("__file__"), *known.get("__path__", ()))
            if any(place and Path(place).is_relative_to(folder) for place in places):
                del sys.modules[name]


@contextmanager
def _own_logging() -> Iterator[None]:
    """Without pytest's handlers, so that the command sets up its own, to its own stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Those of a new process, and an alarm against a command that does not end."""

    def on_alarm(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"the command did not end within {_TIMEOUT_SECONDS} s")

    given = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGALRM: on_alarm,
    }
    before = {number: signal.signal(number, handler) for number, handler in given.items()}
    signal.alarm(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def specified(name: str, *options: object) -> str:
    """What ``hyperfl worker specify NAME OPTIONS`` prints, made once for each set of options."""
    document = json.loads(_specified(*map(str, options)))
    return json.dumps(document | {"name": name})


@cache
def _specified(*options: str) -> str:
    with TemporaryDirectory() as folder:
        done = hyperfl_here("worker", "specify", "unnamed", *options, folder=Path(folder))
    assert done.exit_code == 0, done.errors
    return done.output


@dataclass(frozen=True)
class ServingCoordinator:
    """A coordinator that listens, and the folder it works in."""

    process: BackgroundProcess
    folder: Path
    url: str
    ca_file: Path | None = None
    """Who signed its certificate, if it serves TLS."""

    @property
    def admin_token_file(self) -> Path:
        return self.folder / "coordinator" / "admin-token"

    def admin(self, *arguments: object) -> Finished:
        """Runs a command as the administrator."""
        trust = {} if self.ca_file is None else {"SSL_CERT_FILE": str(self.ca_file)}
        return hyperfl_here(
            *arguments,
            folder=self.folder,
            HYPERFL_COORDINATOR_URL=self.url,
            HYPERFL_ADMIN_TOKEN_FILE=str(self.admin_token_file),
            **trust,
        )

    def create_federation(self, name: str, *options: object) -> None:
        """Specifies and creates a federation."""
        file = self.folder / f"{name}.json"
        file.write_text(specified(name, *options))
        assert self.admin("federation", "create", file).exit_code == 0

    def invite(self, federation: str, *names: str) -> dict[str, str]:
        """Enrolment tokens by client name."""
        invited = self.admin("client", "enroll", federation, *names, "--json").json
        return {one["name"]: one["enrolment_token"] for one in invited}


@contextmanager
def serving_coordinator(
    folder: Path, *options: str, ca_file: Path | None = None
) -> Iterator[ServingCoordinator]:
    """A coordinator on a free port; with a SQLite file in ``folder``, if no option says other."""
    data_dir = str(folder / "coordinator")
    arguments = ("coordinator", "serve", "--data-dir", data_dir, "--port", "0", *options)
    with run_in_background("coordinator", folder, *arguments) as process:
        address = process.wait_for_event("listening")
        url = f"{'http' if ca_file is None else 'https'}://{address['host']}:{address['port']}"
        yield ServingCoordinator(process, folder, url, ca_file)


def worker_toml(
    url: str, federation: str, clients: dict[str, str], data: str, *, seed: int = 1
) -> str:
    """A worker's TOML file for clients (name to enrolment token) that share a ``data`` table.

    ``data`` may hold ``{index}``, the client's place in the list.
    """
    lines = [
        f'coordinator_url = "{url}"',
        f'federation = "{federation}"',
        'allowed_imports = ["tests"]',
    ]
    for index, (name, token) in enumerate(clients.items()):
        lines += [
            "[[clients]]",
            f'name = "{name}"',
            f'state_dir = "state/{name}"',
            f'enrolment_token = "{token}"',
            f"seed = {seed + index}",
            "[clients.data]",
            data.format(index=index),
        ]
    return "\n".join(lines) + "\n"
