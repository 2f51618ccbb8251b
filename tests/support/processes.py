"""Real ``hyperfl`` processes: commands that end, and a coordinator beside them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def hyperfl(*arguments: object, folder: Path, **environment: str) -> Finished:
    """Runs ``hyperfl ARGUMENTS`` in ``folder`` to its end, with nothing but ``environment``."""
    done = subprocess.run(
        command_line(*map(str, arguments)),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"} | environment,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


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
        return hyperfl(
            *arguments,
            folder=self.folder,
            HYPERFL_COORDINATOR_URL=self.url,
            HYPERFL_ADMIN_TOKEN_FILE=str(self.admin_token_file),
            **trust,
        )

    def create_federation(self, name: str, *options: object) -> None:
        """Specifies and creates a federation."""
        file = self.folder / f"{name}.json"
        specified = hyperfl(
            "worker", "specify", name, "--output", file, *options, folder=self.folder
        )
        assert specified.exit_code == 0, specified.errors
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
    lines = [f'coordinator_url = "{url}"', f'federation = "{federation}"']
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
