"""The worker's life: poll for all hosted clients, work round after round, end.

As soon as one client gets a task, the others are asked without waiting: the assignments of a round
appear together, so the group that trains together is decided by the round and not by timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog

from shared.rest.schema import Task, TaskKind
from shared.rest.worker_about import WorkerAbout
from shared.tracing.spans import in_round, past_span, span
from worker.errors import FederationFinished, Refused, RequestFailed, Unreachable
from worker.methods.interface import TrainingInterrupted
from worker.metrics import WorkerMetrics
from worker.remote.patience import Sleep
from worker.rounds.exchange_work import ExchangeWork
from worker.rounds.held_task import HeldTask
from worker.rounds.masked_writer import MaskedWriter
from worker.rounds.pause_notice import PauseNotice
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.progress import EventView, ProgressView, RoundProgress
from worker.rounds.restored_state import check_restored
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter, UpdateWriter
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.hosted_client import HostedClient
from worker.site.opening import NOBODY_TAKEN, Site, open_site
from worker.site.parts import STANDARD_PARTS, SiteParts

_PAUSE_SECONDS = 1.0
"""Between polls that are answered at once and bring nothing to do: no busy loop, whatever the
coordinator answers, and no delay that a round would feel."""

GATHER_SECONDS = 2.0
"""For the answers to the other clients' polls, once one has brought a task: they are sent at the
same moment, and a client that is missed is asked again."""

_EXCHANGE_KINDS = (TaskKind.JOIN, TaskKind.CONFIRM, TaskKind.UNMASK)

_log = structlog.get_logger()


async def run(
    config: WorkerConfig,
    settings: WorkerSettings,
    stop: threading.Event,
    parts: SiteParts = STANDARD_PARTS,
    *,
    gather_seconds: float = GATHER_SECONDS,
    view: ProgressView | None = None,
) -> None:
    """Works until the federation has ended or ``stop`` is set.

    A stop ends whatever is waited for at once, and training after its current step. What was not
    saved by then is done again at the next start, as after a crash.

    Args:
        config: of the site.
        settings: of the worker.
        stop: see above.
        parts: what the site is put together from.
        gather_seconds: see :data:`GATHER_SECONDS`.
        view: shows how far training is; None: events in the log.

    Raises:
        RequestFailed: every client was shut out; and as :func:`open_site`.
        PrivateStateError: the coordinator knows of a newer private state than a client has.
    """
    working = asyncio.create_task(_work(config, settings, stop, parts, gather_seconds, view))
    stopping = asyncio.create_task(_wait_for(stop))
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
    try:
        await working
    except (asyncio.CancelledError, TrainingInterrupted):
        if not stop.is_set():
            raise
        _log.info("stopped; the next start repeats work that was not saved")


async def _work(
    config: WorkerConfig,
    settings: WorkerSettings,
    stop: threading.Event,
    parts: SiteParts,
    gather_seconds: float,
    view: ProgressView | None,
) -> None:
    metrics = WorkerMetrics()
    parts = replace(parts, on_retry=metrics.note_retry)
    async with AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_host, settings.metrics_port))
        site = await stack.enter_async_context(open_site(config, settings, parts))
        writer: UpdateWriter = PlainWriter(site.specification)
        if site.specification.protection is not None:
            writer = MaskedWriter(
                site.specification,
                site.patience,
                shows_own_metrics=config.policy.own_metrics,
            )
        gate = PolicyGate(config.policy, site.specification.training)
        work = RoundWork(
            writer,
            site.method,
            site.cache,
            site.patience,
            stop,
            gate,
            metrics,
            progress=RoundProgress(view or EventView()),
            trainer=site.trainer,
        )
        stack.callback(work.close)
        exchange = ExchangeWork(site.patience, gate)
        _log.info("worker ready", federation=site.specification.name, clients=len(site.clients))
        worker = _Worker(
            site,
            work,
            exchange,
            metrics,
            poll_wait_seconds=settings.poll_wait_seconds,
            gather_seconds=gather_seconds,
            sleep=parts.sleep,
        )
        await worker.run()


async def _wait_for(stop: threading.Event) -> None:
    while not stop.is_set():  # noqa: ASYNC110 - set by a signal, which no loop awaits
        await asyncio.sleep(0.1)


class _Worker:
    def __init__(
        self,
        site: Site,
        work: RoundWork,
        exchange: ExchangeWork,
        metrics: WorkerMetrics,
        *,
        poll_wait_seconds: float,
        gather_seconds: float,
        sleep: Sleep,
    ) -> None:
        self._site = site
        self._work = work
        self._poll_wait_seconds = poll_wait_seconds
        self._gather_seconds = gather_seconds
        self._sleep = sleep
        self._exchange = exchange
        self._metrics = metrics
        self._pause_notice = PauseNotice(site.specification.name)

    async def run(self) -> None:
        while active := [client for client in self._site.clients if not client.is_done]:
            held = await self._collect(active)
            if held and await self._do(held):
                continue
            if not held:
                await self._pause_notice.look(active[0].api)
            await self._sleep(_PAUSE_SECONDS)
        if all(client.is_shut_out for client in self._site.clients):
            raise RequestFailed(NOBODY_TAKEN)

    async def _do(self, held: Sequence[HeldTask]) -> bool:
        """Does what a round's tasks ask for; false as :meth:`RoundWork.do`."""
        task = held[0].task
        with (
            in_round(held[0].client.state.specification_digest, task.round_number),
            span(
                "work",
                federation=task.federation,
                round=task.round_number,
                kind=task.kind.value,
                version=task.base_version,
            ),
        ):
            if task.kind not in _EXCHANGE_KINDS:
                return await self._work.do(held)
            with self._metrics.phase("exchange"):
                await self._exchange.do(held)
            return True

    async def _collect(self, active: Sequence[HostedClient]) -> list[HeldTask]:
        """Tasks of one round and kind that hosted clients hold; none after a poll without work."""
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
            return []
        newest = max(tasks.values(), key=lambda task: task.round_number)
        round_number, kind = newest.round_number, newest.kind
        others = [client for client in active if client.name not in tasks and not client.is_done]
        for client, task in zip(
            others, await asyncio.gather(*(self._poll(c, 0.0) for c in others)), strict=True
        ):
            if task is not None:
                tasks[client.name] = task
        return [
            HeldTask(client, tasks[client.name])
            for client in active
            if client.name in tasks
            and (tasks[client.name].round_number, tasks[client.name].kind) == (round_number, kind)
            and client.failed_in_round != round_number
        ]

    async def _poll(self, client: HostedClient, wait_seconds: float) -> Task | None:
        federation = self._site.specification.name
        try:
            return await self._site.patience.insist(
                "polling for work",
                lambda: _ask(client, federation, wait_seconds, self._site.about),
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
    client: HostedClient, federation: str, wait_seconds: float, about: WorkerAbout
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
