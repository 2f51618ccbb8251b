"""The worker's life: start, poll for all hosted clients, work round after round, end.

As soon as one client gets a task, the others are asked without waiting: the assignments of a round
appear together, so the group that trains together is decided by the round and not by timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
import torch
from pydantic import ValidationError

from shared.schema import FederationView, Task
from shared.specification import FederationSpecification, ParameterSpecification
from shared.validation import first_fault
from worker import private_state
from worker.client import (
    Connection,
    CoordinatorClient,
    CoordinatorError,
    FederationFinished,
    Refused,
    Transport,
)
from worker.data.loading import DatasetCache
from worker.free_memory import default_feature_cache_bytes
from worker.hosted_client import HostedClient, load_client, obtain_credential
from worker.methods import build_method
from worker.methods.base import Method, SiteResources, TrainingInterrupted
from worker.models.registry import pixel_statistics
from worker.patience import Patience
from worker.pause_notice import PauseNotice
from worker.settings import ClientConfig, ConfigError, WorkerConfig, WorkerSettings
from worker.task_group import SHUT_OUT, HeldTask, TaskGroup
from worker.weights_cache import WeightsCache

_NOBODY_TAKEN = "the coordinator takes none of this worker's clients"
_PAUSE_SECONDS = 1.0
"""Between polls that are answered at once and bring nothing to do: no busy loop, whatever the
coordinator answers, and no delay that a round would feel."""

_GATHER_SECONDS = 2.0
"""For the answers to the other clients' polls, once one has brought a task: they are sent at the
same moment, and a client that is missed is asked again."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Site:
    """Everything a worker needs, ready to work."""

    specification: FederationSpecification
    method: Method
    clients: Sequence[HostedClient]
    cache: WeightsCache
    patience: Patience


@asynccontextmanager
async def open_site(
    config: WorkerConfig,
    settings: WorkerSettings,
    transport: Transport | None = None,
) -> AsyncIterator[Site]:
    """Enrols who is not yet, fetches the specification, builds the method, loads data and state.

    Raises:
        ConfigError, DataError, ModelError, PrivateStateError: this site is not in order.
        CoordinatorError: the coordinator refuses, or is not reached.
    """
    connection = Connection(
        config.coordinator_url,
        settings.request_timeout_seconds,
        settings.transfer_seconds,
        config.ca_file,
        transport,
    )
    patience = Patience(settings.give_up_after_seconds)
    async with AsyncExitStack() as stack:
        members: list[tuple[ClientConfig, CoordinatorClient]] = []
        for client in config.clients:
            stack.enter_context(private_state.locked(client.state_dir))
            credential = await obtain_credential(client, connection, config.federation, patience)
            http = CoordinatorClient(connection, credential)
            stack.push_async_callback(http.close)
            found = await _fetch_federation(client, http, config.federation, patience)
            if found is not None:
                federation = found
                members.append((client, http))
        if not members:
            raise CoordinatorError(_NOBODY_TAKEN)
        specification = _read_specification(federation)
        device = _device(settings)
        method = build_method(specification.training, device, _resources(config, settings, device))
        _check_specification(specification.parameters, method)
        datasets = DatasetCache(pixel_statistics(specification.training.model))
        clients = [
            load_client(
                client, http, specification, federation.specification_digest, method, datasets
            )
            for client, http in members
        ]
        cache_folder = config.clients[0].state_dir / "weights"
        cache = WeightsCache(cache_folder, specification, patience)
        yield Site(specification, method, clients, cache, patience)


async def _fetch_federation(
    client: ClientConfig, http: CoordinatorClient, federation: str, patience: Patience
) -> FederationView | None:
    """The federation as this client is shown it; None if the client is shut out."""
    try:
        return await patience.insist(
            "fetching the federation", lambda: http.fetch_federation(federation)
        )
    except Refused as refusal:
        if not refusal.is_a(*SHUT_OUT):
            raise
        _log.error("client shut out", client=client.name, detail=refusal.problem.detail)
        return None


def _read_specification(federation: FederationView) -> FederationSpecification:
    try:
        return federation.checked_specification()
    except ValidationError as error:
        raise ConfigError(
            f"this version does not understand the specification of federation "
            f"{federation.name}: {first_fault(error)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"federation {federation.name}: {error}") from error


def _resources(
    config: WorkerConfig, settings: WorkerSettings, device: torch.device
) -> SiteResources:
    cache_bytes = settings.max_feature_cache_bytes
    if cache_bytes is None:
        cache_bytes = default_feature_cache_bytes(device)
    return SiteResources(
        max_factor_bytes=settings.max_factor_bytes,
        max_feature_cache_bytes=cache_bytes,
        backbone_weights_file=config.backbone_weights_file,
    )


def _device(settings: WorkerSettings) -> torch.device:
    if settings.device != "auto":
        try:
            return torch.device(settings.device)
        except RuntimeError as error:
            raise ConfigError(f"device {settings.device}: {error}") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_specification(given: ParameterSpecification, method: Method) -> None:
    """Raises ConfigError unless the federation shares exactly what the method shares here."""
    ours = method.parameters(given.seed).by_name
    for tensor in given.tensors:
        if tensor.name not in ours:
            raise ConfigError(f"the federation shares {tensor.name}, which its method does not")
        if tensor.shape != ours[tensor.name].shape:
            raise ConfigError(
                f"the federation's {tensor.name} has shape {list(tensor.shape)}, "
                f"the model here makes it {list(ours[tensor.name].shape)}"
            )
    if missing := sorted(ours.keys() - given.by_name.keys()):
        raise ConfigError(f"the federation does not share {missing[0]}, which its method needs")


async def run(
    config: WorkerConfig,
    settings: WorkerSettings,
    stop: threading.Event,
    transport: Transport | None = None,
) -> None:
    """Works until the federation has ended or ``stop`` is set.

    A stop ends whatever is waited for at once, and training after its current step. What was not
    saved by then is done again at the next start, as after a crash.

    Raises:
        CoordinatorError: every client was shut out; and as :func:`open_site`.
    """
    working = asyncio.create_task(_work(config, settings, stop, transport))
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
        _log.info("stopped; work that was not saved is done again at the next start")


async def _work(
    config: WorkerConfig,
    settings: WorkerSettings,
    stop: threading.Event,
    transport: Transport | None,
) -> None:
    async with open_site(config, settings, transport) as site:
        group = TaskGroup(site.specification, site.method, site.cache, site.patience, stop)
        _log.info("worker ready", federation=site.specification.name, clients=len(site.clients))
        try:
            await _Worker(site, group, settings.poll_wait_seconds).run()
        finally:
            group.close()


async def _wait_for(stop: threading.Event) -> None:
    while not stop.is_set():  # noqa: ASYNC110 - set by a signal, which no loop awaits
        await asyncio.sleep(0.1)


class _Worker:
    def __init__(self, site: Site, group: TaskGroup, poll_wait_seconds: float) -> None:
        self._site = site
        self._group = group
        self._poll_wait_seconds = poll_wait_seconds
        self._pause_notice = PauseNotice(site.specification.name)

    async def run(self) -> None:
        while active := [client for client in self._site.clients if not client.is_done]:
            held = await self._collect(active)
            if held:
                await self._group.work(held)
            else:
                await self._pause_notice.look(active[0].connection)
                await asyncio.sleep(_PAUSE_SECONDS)
        if all(client.is_shut_out for client in self._site.clients):
            raise CoordinatorError(_NOBODY_TAKEN)

    async def _collect(self, active: Sequence[HostedClient]) -> list[HeldTask]:
        """The tasks of one round that hosted clients hold; none after a poll without work."""
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
                    more, waiting = await asyncio.wait(waiting, timeout=_GATHER_SECONDS)
                    done |= more
                    if waiting:
                        _log.info(
                            "polls without an answer are asked again",
                            clients=[polls[poll].name for poll in waiting],
                            after_seconds=_GATHER_SECONDS,
                        )
                for poll in done:
                    if (task := poll.result()) is not None:
                        tasks[polls[poll].name] = task
        finally:
            await _cancel(list(waiting))
        if not tasks:
            return []
        round_number = max(task.round_number for task in tasks.values())
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
            and tasks[client.name].round_number == round_number
            and client.failed_in_round != round_number
        ]

    async def _poll(self, client: HostedClient, wait_seconds: float) -> Task | None:
        federation = self._site.specification.name
        try:
            return await self._site.patience.insist(
                "polling for work", lambda: client.connection.next_task(federation, wait_seconds)
            )
        except FederationFinished as finished:
            _log.info("federation ended", client=client.name, detail=finished.problem.detail)
            client.is_done = True
            if client.state.pending is not None:
                client.discard_pending()
        except Refused as refusal:
            if not refusal.is_a(*SHUT_OUT):
                raise
            client.shut_out(refusal.problem.detail)
        return None


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Cancels tasks; a task leased to a poll that is cancelled is delivered again to the next."""
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, CoordinatorError):
        await asyncio.gather(*tasks, return_exceptions=True)
