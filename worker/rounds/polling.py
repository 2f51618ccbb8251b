"""Asks for the work of all clients, and gathers that of one round.

As soon as one client gets a task, the others are asked without waiting: the assignments of a round
appear together, so the group that trains together is decided by the round and not by timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import structlog

from shared.rest.schema import Task
from shared.rest.worker_about import WorkerAbout
from shared.tracing.spans import in_round, past_span
from worker.errors import FederationFinished, Refused, RequestFailed, Unreachable
from worker.remote.patience import Patience
from worker.rounds.restored_state import check_restored
from worker.site.enrolled_client import EnrolledClient

GATHER_SECONDS = 2.0
"""For the answers to the other clients' polls, once one has brought a task: they are sent at the
same moment, and a client that is missed is asked again."""

_log = structlog.get_logger()


class Polls:
    """Polls for clients of one federation."""

    def __init__(
        self,
        federation: str,
        patience: Patience,
        about: WorkerAbout,
        *,
        poll_wait_seconds: float,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._federation = federation
        self._patience = patience
        self._about = about
        self._poll_wait_seconds = poll_wait_seconds
        self._gather_seconds = gather_seconds

    async def collect(self, active: Sequence[EnrolledClient]) -> dict[str, Task]:
        """Tasks of one round and kind, by client; none after a poll without work.

        Raises:
            PrivateStateError: the coordinator knows of a newer private state than a client has.
            Refused, Unreachable: as it answers.
        """
        polls = {
            asyncio.create_task(self._poll(client, self._poll_wait_seconds)): client
            for client in active
        }
        waiting: set[asyncio.Task[Task | None]] = set(polls)
        tasks: dict[str, Task] = {}
        try:
            while waiting and not tasks:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(poll.result() is not None for poll in done) and waiting:
                    # A round opened, which answers every poll; nobody waits for one that is lost.
                    more, waiting = await asyncio.wait(waiting, timeout=self._gather_seconds)
                    done |= more
                    if waiting:
                        _log.info(
                            "polls without an answer are asked again",
                            clients=[polls[poll].name for poll in waiting],
                            after_seconds=self._gather_seconds,
                        )
                for poll in done:
                    if (task := poll.result()) is not None:
                        tasks[polls[poll].name] = task
        finally:
            await _cancel(list(waiting))
        if not tasks:
            return {}
        newest = max(tasks.values(), key=lambda task: task.round_number)
        round_number, kind = newest.round_number, newest.kind
        others = [client for client in active if client.name not in tasks and not client.is_done]
        for client, task in zip(
            others, await asyncio.gather(*(self._poll(c, 0.0) for c in others)), strict=True
        ):
            if task is not None:
                tasks[client.name] = task
        return {
            client.name: tasks[client.name]
            for client in active
            if client.name in tasks
            and (tasks[client.name].round_number, tasks[client.name].kind) == (round_number, kind)
            and client.failed_in_round != round_number
        }

    async def _poll(self, client: EnrolledClient, wait_seconds: float) -> Task | None:
        federation = self._federation
        try:
            return await self._patience.insist(
                "polling for work",
                lambda: _ask(client, federation, wait_seconds, self._about),
            )
        except FederationFinished as finished:
            _log.info("federation ended", client=client.name, detail=finished.problem.detail)
            client.is_done = True
            if client.state.pending is not None:
                client.discard_pending()
        except Refused as refusal:
            check_restored(client, refusal)
            if not refusal.shuts_out:
                raise
            client.shut_out(refusal.problem.detail)
        return None


async def _ask(
    client: EnrolledClient, federation: str, wait_seconds: float, about: WorkerAbout
) -> Task | None:
    asked_at = time.monotonic()
    task = await client.api.next_task(federation, wait_seconds, about, client.told_generation)
    if task is not None and (task.federation, task.client) != (federation, client.name):
        raise Unreachable(
            f"the coordinator gave client {client.name} of federation {federation} the task of "
            f"client {task.client} of federation {task.federation}"
        )
    if task is not None:
        with in_round(client.state.specification_digest, task.round_number):
            past_span(
                "lease",
                time.monotonic() - asked_at,
                federation=federation,
                client=client.name,
                round=task.round_number,
                attempt=task.attempt,
                kind=task.kind.value,
            )
    return task


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Cancels tasks; a task leased to a poll that is cancelled is delivered again to the next."""
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, RequestFailed):
        await asyncio.gather(*tasks, return_exceptions=True)
