"""The worker's life: poll for all hosted clients, work round after round, end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog

from shared.rest.schema import TaskKind
from shared.tracing.spans import in_round, span
from worker.errors import RequestFailed
from worker.methods.interface import TrainingInterrupted
from worker.metrics import WorkerMetrics
from worker.remote.patience import Sleep
from worker.rounds.assembly import round_work
from worker.rounds.exchange_work import ExchangeWork
from worker.rounds.held_task import HeldTask
from worker.rounds.pause_notice import PauseNotice
from worker.rounds.polling import GATHER_SECONDS, Polls
from worker.rounds.progress import ProgressView
from worker.rounds.round_work import RoundWork
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.opening import NOBODY_TAKEN, Site, open_site
from worker.site.parts import STANDARD_PARTS, SiteParts

_PAUSE_SECONDS = 1.0
"""Between polls that are answered at once and bring nothing to do: no busy loop, whatever the
coordinator answers, and no delay that a round would feel."""

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
        work, gate = round_work(site, config.policy, stop, metrics, view)
        stack.callback(work.close)
        exchange = ExchangeWork(site.patience, gate)
        _log.info("worker ready", federation=site.specification.name, clients=len(site.clients))
        worker = _Worker(
            site,
            work,
            exchange,
            metrics,
            polls=Polls(
                site.specification.name,
                site.patience,
                site.about,
                poll_wait_seconds=settings.poll_wait_seconds,
                gather_seconds=gather_seconds,
            ),
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
        polls: Polls,
        sleep: Sleep,
    ) -> None:
        self._site = site
        self._work = work
        self._polls = polls
        self._sleep = sleep
        self._exchange = exchange
        self._metrics = metrics
        self._pause_notice = PauseNotice(site.specification.name)

    async def run(self) -> None:
        while active := [client for client in self._site.clients if not client.is_done]:
            tasks = await self._polls.collect(active)
            held = [HeldTask(one, tasks[one.name]) for one in active if one.name in tasks]
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
