"""The folder that fetches, trainings and sendings share; every file in it is whole or absent.

``federation.json`` is the federation as it was fetched, ``weights/`` has the versions that tasks
start from, ``tasks/`` one file for each client that holds work, and ``declined/`` what a client
said in place of an update. Updates are not here: they are in the clients' private states.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from shared.rest.declines import DeclineKind, DeclineReason
from shared.rest.schema import FederationView, Task
from worker.errors import ConfigError
from worker.settings import WorkerConfig
from worker.site import json_file

_FETCH_FIRST = "run `hyperfl worker fetch` before, where there is a network"


class Declined(BaseModel):
    """A round that a client takes no part in, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    kind: DeclineKind
    reason: DeclineReason


class Spool:
    """One federation's folder."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
        self.folder = folder
        self.weights = folder / "weights"
        self._federation = folder / "federation.json"

    @contextmanager
    def network_locked(self) -> Iterator[None]:
        """Keeps other fetches and sendings away; raises ConfigError if one is at work."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / "network-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self.folder} is in use by another `hyperfl worker fetch` or `send`"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def federation(self, config: WorkerConfig) -> FederationView:
        """The federation of a worker's file.

        Raises:
            ConfigError: none was fetched, or another.
            PrivateStateError: the file is damaged.
        """
        found = None
        if self._federation.exists():
            found = json_file.load(self._federation, FederationView)
        if found is None:
            raise ConfigError(f"{self.folder} has no federation: {_FETCH_FIRST}")
        if found.name != config.federation:
            raise ConfigError(
                f"{self.folder} is of federation {found.name}, and not of {config.federation}"
            )
        return found

    def save_federation(self, federation: FederationView) -> None:
        """Keeps what was fetched."""
        json_file.save(self._federation, federation)

    def task(self, client: str) -> Task | None:
        """What the client is to do, if there is something.

        Raises:
            PrivateStateError: the file is damaged.
        """
        return json_file.load(self._task_file(client), Task)

    def save_task(self, task: Task) -> None:
        """Keeps a task in place of the client's last; its weights are there already."""
        json_file.save(self._task_file(task.client), task)

    def drop_task(self, task: Task) -> None:
        """The client is done with this task; a later one stays."""
        kept = self.task(task.client)
        if kept is not None and is_same_work(kept, task):
            self._task_file(task.client).unlink(missing_ok=True)

    def declined(self, client: str) -> Declined | None:
        """What the client has declined and nobody was told yet; raises as :meth:`task`."""
        return json_file.load(self._declined_file(client), Declined)

    def save_declined(self, declined: Declined) -> None:
        """Keeps that a client has declined a task, until it is sent."""
        json_file.save(self._declined_file(declined.task.client), declined)

    def drop_declined(self, client: str) -> None:
        """The coordinator was told."""
        self._declined_file(client).unlink(missing_ok=True)

    def _task_file(self, client: str) -> Path:
        return self.folder / "tasks" / f"{client}.json"

    def _declined_file(self, client: str) -> Path:
        return self.folder / "declined" / f"{client}.json"


def is_same_work(one: Task, other: Task) -> bool:
    """Whether two tasks ask for the same, under whichever attempt."""
    return (one.kind, one.round_number, one.base_digest) == (
        other.kind,
        other.round_number,
        other.base_digest,
    )
