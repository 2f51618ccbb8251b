"""Keeps the leases of tasks alive while their work is done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog

from shared.rest.schema import Task
from worker.errors import Refused, Unreachable
from worker.remote.bounds import heartbeat_seconds
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Sleep

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def heartbeats(
    held: Sequence[tuple[CoordinatorApi, Task]], sleep: Sleep = asyncio.sleep
) -> AsyncIterator[set[str]]:
    """Keeps every lease alive for as long as the client's name is in the set it gives."""
    beating = {task.client for _, task in held}
    tasks = [asyncio.create_task(_beat(api, task, beating, sleep)) for api, task in held]
    try:
        yield beating
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _beat(api: CoordinatorApi, task: Task, beating: set[str], sleep: Sleep) -> None:
    """A heartbeat at a third of the lease. One that fails is not the end: the upload decides."""
    while True:
        await sleep(heartbeat_seconds(task.lease_seconds))
        if task.client not in beating:
            return
        try:
            await api.heartbeat(task)
        except (Refused, Unreachable) as error:
            _log.warning(
                "heartbeat failed", client=task.client, round=task.round_number, error=str(error)
            )
            if isinstance(error, Refused):
                return
