"""``hyperfl worker train``: the work that a spool has, done without a network."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from shared.rest.schema import Task
from worker.errors import ConfigError
from worker.methods.interface import TrainingInterrupted
from worker.metrics import WorkerMetrics
from worker.rounds.assembly import round_work
from worker.rounds.held_task import HeldTask
from worker.rounds.progress import ProgressView
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.opening import open_site
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.spool.api import SpoolApi, SpoolDoor
from worker.spool.federations import check_can_be_spooled
from worker.spool.folder import Spool
from worker.spool.outcomes import Outcome

_log = structlog.get_logger()


async def train(
    config: WorkerConfig,
    settings: WorkerSettings,
    folder: Path,
    stop: threading.Event,
    parts: SiteParts = STANDARD_PARTS,
    view: ProgressView | None = None,
) -> list[Outcome]:
    """Does every client's task once; what comes of each. Killed at any point, it may be repeated.

    ``stop`` ends training after its step.

    Each update is saved in its client's private state, from where it is sent.

    Raises:
        ConfigError, DataError, PrivateStateError: the folder or the site is not in order.
    """
    spool = Spool(folder)
    federation = spool.federation(config)
    check_can_be_spooled(federation)
    tasks: dict[str, Task] = {}
    for client in config.clients:
        api = SpoolApi(spool, federation, client.name)
        if (task := await api.next_task(federation.name, 0.0)) is not None:
            tasks[client.name] = task
    if not tasks:
        return []
    newest = max(task.round_number for task in tasks.values())
    mine = tuple(one for one in config.clients if one.name in tasks)
    config = config.model_copy(update={"clients": mine})
    door = SpoolDoor(spool, federation)
    async with open_site(config, settings, parts, door) as site:
        held, outcomes = [], []
        for hosted in site.clients:
            one = HeldTask(hosted, tasks[hosted.name])
            if one.task.round_number != newest:
                outcomes.append(Outcome.of(one.task, "left: a later round has begun"))
            elif hosted.state.pending is not None and not hosted.has_pending_for(one.task):
                outcomes.append(Outcome.of(one.task, "left: an earlier update is to be sent first"))
            else:
                held.append(one)
        work, _ = round_work(site, config.policy, stop, WorkerMetrics(), view)
        state = "nothing to send"
        try:
            if held and not await work.do(held):
                raise ConfigError(
                    f"{folder} has not the weights of round {newest}: run `hyperfl worker fetch` "
                    "again"
                )
        except TrainingInterrupted:
            if not stop.is_set():
                raise
            state = "stopped, to be trained again"
        finally:
            work.close()
        for one in held:
            done = one.client.has_pending_for(one.task)
            outcomes.append(Outcome.of(one.task, "to be sent" if done else state))
    return outcomes
