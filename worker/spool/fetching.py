"""``hyperfl worker fetch``: brings tasks and the weights that they start from into a spool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import structlog
import torch

from shared.rest.problems import ProblemType
from shared.rest.schema import FederationView, Task
from worker.errors import Refused, RequestFailed
from worker.remote.patience import Patience
from worker.remote.weights_cache import WeightsCache
from worker.rounds.polling import Polls
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site import private_state
from worker.site.admission import Door, NetworkDoor
from worker.site.coordinator_address import coordinator_address
from worker.site.device import about_worker
from worker.site.enrolled_client import EnrolledClient
from worker.site.enrolment import CREDENTIAL_NAME
from worker.site.free_memory import free_main_memory_bytes
from worker.site.needed_memory import FREE_SHARE, check_needed_memory
from worker.site.opening import NOBODY_TAKEN, read_specification
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.site.policy import check_specification
from worker.site.private_state import PrivateState
from worker.site.state_lock import locked
from worker.spool.federations import check_can_be_spooled, too_short
from worker.spool.folder import Spool
from worker.spool.leases import keep_alive
from worker.spool.outcomes import Outcome

_log = structlog.get_logger()


class _Asked(EnrolledClient):
    """A client whose private state is only read here: training may have it meanwhile."""

    def discard_pending(self) -> None:
        """Sending finds out by itself that the federation has ended."""


async def fetch(
    config: WorkerConfig,
    settings: WorkerSettings,
    folder: Path,
    *,
    wait: bool = False,
    queue_seconds: float = 0.0,
    parts: SiteParts = STANDARD_PARTS,
) -> list[Outcome]:
    """Polls once, or until there is work; what each client has to do then.

    Weights are in the folder before the tasks that name them. Killed at any point, it may be
    repeated: the coordinator gives the same tasks again.

    Args:
        config: of the site.
        settings: of the worker.
        folder: the spool, made where there is none.
        wait: whether to ask until there is work or the federation has ended.
        queue_seconds: that a job may wait and train, for a warning where leases are shorter.
        parts: what the site is put together from.

    Raises:
        ConfigError, DataError, PrivateStateError: the site is not in order, or the federation
            cannot be worked for so.
        RequestFailed: the coordinator refuses, or is not reached.
    """
    spool = Spool(folder)
    door = NetworkDoor(coordinator_address(config, settings, parts.transport))
    max_bytes = settings.max_memory_bytes or int(FREE_SHARE * free_main_memory_bytes())
    door.check(config, parts.datasets(None, max_bytes))
    patience = Patience(settings.give_up_after_seconds, parts.sleep, is_found=False)
    with spool.network_locked():
        async with _admitted(config, door, patience) as (federation, clients):
            check_can_be_spooled(federation)
            specification = read_specification(federation, config.federation)
            check_specification(config.policy, specification, federation.specification_digest)
            check_needed_memory(specification, max_bytes)
            spool.save_federation(federation)
            for line in too_short(specification.name, specification.round_policy, queue_seconds):
                _log.warning(line)
            polls = Polls(
                specification.name,
                patience,
                about_worker(torch.device("cpu")).model_copy(update={"device": None}),
                poll_wait_seconds=settings.poll_wait_seconds if wait else 0.0,
            )
            cache = WeightsCache(spool.weights, specification, patience)
            tasks: dict[str, Task] = {}
            while active := [one for one in clients if not one.is_done]:
                tasks = await polls.collect(active)
                if await _take(spool, active, tasks, cache) or not wait:
                    break
                await parts.sleep(1.0)
            return [await _outcome(spool, one, tasks.get(one.name)) for one in clients]


async def _take(
    spool: Spool, clients: Sequence[EnrolledClient], tasks: dict[str, Task], cache: WeightsCache
) -> bool:
    """Keeps what was asked for, with its weights; whether there was something to be had."""
    for client in clients:
        task = tasks.get(client.name)
        if task is None:
            continue
        try:
            await cache.get(client.api, task.base_version, task.base_digest)
        except Refused as refusal:
            if not refusal.is_a(ProblemType.VERSION_REMOVED, ProblemType.NOT_FOUND):
                raise
            _log.warning("weights no longer kept, work dropped", detail=refusal.problem.detail)
            tasks.clear()
            return False
        spool.save_task(task)
    return bool(tasks)


async def _outcome(spool: Spool, client: EnrolledClient, task: Task | None) -> Outcome:
    if task is not None:
        done = client.has_pending_for(task)
        return Outcome.of(task, "to be sent" if done else "to be trained")
    if client.is_done:
        state = "shut out" if client.is_shut_out else "the federation has ended"
        return Outcome(client.name, None, None, state)
    if (earlier := spool.task(client.name)) is not None:
        return Outcome.of(earlier, await keep_alive(spool, client.api, earlier))
    return Outcome(client.name, None, None, "no work now")


@asynccontextmanager
async def _admitted(
    config: WorkerConfig, door: Door, patience: Patience
) -> AsyncIterator[tuple[FederationView, list[EnrolledClient]]]:
    """The federation, and its clients of this worker's file that the coordinator accepts."""
    clients: list[EnrolledClient] = []
    federation: FederationView | None = None
    async with AsyncExitStack() as stack:
        for client in config.clients:
            with ExitStack() as enrolling:
                if not (client.state_dir / CREDENTIAL_NAME).exists():
                    enrolling.enter_context(locked(client.state_dir))
                api, found = await door.admit(client, config.federation, patience)
            stack.push_async_callback(api.close)
            if found is not None:
                federation = found
                clients.append(_Asked(client, api, read_state(client, found)))
        if federation is None:
            raise RequestFailed(NOBODY_TAKEN)
        yield federation, clients


def read_state(client: ClientConfig, federation: FederationView) -> PrivateState:
    """A client's private state; where there is none yet, what is told of a new one."""
    new = PrivateState(federation.name, federation.specification_digest, client.name, 0, {})
    found = private_state.load(
        client.state_dir,
        federation=new.federation,
        specification_digest=new.specification_digest,
        client=new.client,
    )
    return found or new
