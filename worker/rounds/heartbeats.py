"""Keeps the leases of tasks alive while their work is done, and hears when it is wanted no more."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable, Sequence

import structlog

from shared.rest.problems import ProblemType
from shared.rest.schema import Task
from worker.errors import Refused, Unreachable
from worker.remote.bounds import heartbeat_seconds
from worker.remote.coordinator import Coordinator
from worker.remote.patience import Sleep

_log = structlog.get_logger()


class Leases:
    """The leases of a round's tasks, by client."""

    def __init__(self, clients: Iterable[str]) -> None:
        self._kept = set(clients)
        self._over: set[str] = set()
        self._is_wanted = threading.Event()
        self._is_wanted.set()

    @property
    def is_wanted(self) -> bool:
        """Whether the round still takes the work of a client; any thread may ask."""
        return self._is_wanted.is_set()

    def keeps(self, client: str) -> bool:
        """Whether the client's lease is to be kept alive."""
        return client in self._kept

    def drop(self, *clients: str) -> None:
        """The clients are done with the round; nothing is said of them any longer."""
        self._kept.difference_update(clients)
        self._look()

    def end(self, client: str) -> None:
        """The round takes nothing of the client any longer."""
        self._over.add(client)
        self._look()

    def _look(self) -> None:
        if self._kept and self._kept <= self._over:
            self._is_wanted.clear()


@contextlib.asynccontextmanager
async def heartbeats(
    held: Sequence[tuple[Coordinator, Task]], sleep: Sleep = asyncio.sleep
) -> AsyncIterator[Leases]:
    """Keeps every lease alive until it is dropped."""
    leases = Leases(task.client for _, task in held)
    tasks = [asyncio.create_task(_beat(api, task, leases, sleep)) for api, task in held]
    try:
        yield leases
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _beat(api: Coordinator, task: Task, leases: Leases, sleep: Sleep) -> None:
    """A heartbeat at a third of the lease.

    One that fails is not the end: the upload decides. A lease that is lost may be had again, so
    only what says that the round is over, or that the client is, ends the work.
    """
    said = ""
    while True:
        await sleep(heartbeat_seconds(task.lease_seconds))
        if not leases.keeps(task.client):
            return
        try:
            await api.heartbeat(task)
        except (Refused, Unreachable) as error:
            if said != (said := str(error)):
                _log.warning(
                    "heartbeat failed", client=task.client, round=task.round_number, error=said
                )
            if isinstance(error, Refused) and not error.is_a(ProblemType.LEASE_LOST):
                leases.end(task.client)
                return
