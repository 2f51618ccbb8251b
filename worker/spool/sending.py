"""``hyperfl worker send``: sends what training left in private states, and keeps leases alive."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from shared.rest.schema import FederationView, Task
from worker.errors import ConfigError, Refused, StateInUse
from worker.metrics import WorkerMetrics
from worker.remote.bounds import heartbeat_seconds
from worker.remote.coordinator import Coordinator
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Patience
from worker.rounds.heartbeats import Leases
from worker.rounds.held_task import LeasedTask
from worker.rounds.update_sender import UpdateSender
from worker.settings import ClientConfig, WorkerConfig, WorkerSettings
from worker.site.coordinator_address import coordinator_address
from worker.site.enrolled_client import EnrolledClient
from worker.site.enrolment import CREDENTIAL_NAME, read_credential
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.site.private_state import PendingUpdate, PrivateState
from worker.site.state_lock import locked
from worker.spool.federations import check_can_be_spooled
from worker.spool.fetching import read_state
from worker.spool.folder import Spool, is_same_work
from worker.spool.leases import keep_alive
from worker.spool.outcomes import Outcome

_LOOK_AGAIN_SECONDS = 30.0


async def send(
    config: WorkerConfig,
    settings: WorkerSettings,
    folder: Path,
    *,
    wait: bool = False,
    parts: SiteParts = STANDARD_PARTS,
) -> list[Outcome]:
    """Sends once, or until nothing is left to train and to send; where each client stands then.

    An update leaves as it was saved, byte for byte, until it is answered. Its task goes before the
    private state forgets it. Killed at any point, it may be repeated.

    Raises:
        ConfigError, PrivateStateError: the folder or the site is not in order, or the coordinator
            knows of a newer private state.
        RequestFailed: the coordinator refuses, or is not reached.
    """
    spool = Spool(folder)
    federation = spool.federation(config)
    check_can_be_spooled(federation)
    address = coordinator_address(config, settings, parts.transport)
    patience = Patience(settings.give_up_after_seconds, parts.sleep, is_found=False)
    with spool.network_locked():
        async with AsyncExitStack() as stack:
            sendings = []
            for client in config.clients:
                file = client.state_dir / CREDENTIAL_NAME
                if not file.exists():
                    raise ConfigError(f"client {client.name} is not enrolled: run fetch before")
                api = CoordinatorApi(address, read_credential(file))
                stack.push_async_callback(api.close)
                sendings.append(
                    _Sending(client, api, spool, federation, patience, config.policy.decline_text)
                )
            while True:
                outcomes = [await one.go_on() for one in sendings]
                left = [task for one in sendings if (task := one.task()) is not None]
                if not wait or not left:
                    return outcomes
                await parts.sleep(_next_look_seconds(left))


def _next_look_seconds(tasks: Sequence[Task]) -> float:
    return min([_LOOK_AGAIN_SECONDS, *(heartbeat_seconds(task.lease_seconds) for task in tasks)])


class _SpooledClient(EnrolledClient):
    """A client whose answered task leaves the spool, so that nobody trains it again."""

    def __init__(
        self, config: ClientConfig, api: Coordinator, state: PrivateState, spool: Spool
    ) -> None:
        super().__init__(config, api, state)
        self._spool = spool

    def confirm_pending(self) -> None:
        """The pending update is recorded."""
        self._drop_task()
        super().confirm_pending()

    def discard_pending(self) -> None:
        """Nobody wants the pending update any longer."""
        self._drop_task()
        super().discard_pending()

    def _drop_task(self) -> None:
        task = self._spool.task(self.name)
        if task is not None and self.has_pending_for(task):
            self._spool.drop_task(task)


class _Sending:
    """What is to be said for one client."""

    def __init__(
        self,
        config: ClientConfig,
        api: CoordinatorApi,
        spool: Spool,
        federation: FederationView,
        patience: Patience,
        tells_why: bool,
    ) -> None:
        self._config = config
        self._tells_why = tells_why
        self._api = api
        self._spool = spool
        self._federation = federation
        self._patience = patience
        self._sender = UpdateSender(patience, WorkerMetrics())

    def task(self) -> Task | None:
        """The client's work in the spool, if there is some."""
        return self._spool.task(self._config.name)

    async def go_on(self) -> Outcome:
        """Sends what is ready; where the client stands then."""
        name, task = self._config.name, self.task()
        try:
            with locked(self._config.state_dir):
                await self._decline()
                state = read_state(self._config, self._federation)
                client = _SpooledClient(self._config, self._api, state, self._spool)
                client.tells_why = self._tells_why
                if state.pending is not None:
                    return await self._send(client, state.pending, task)
        except StateInUse:
            if task is None:
                return Outcome(name, None, None, "in use by another worker")
            return Outcome.of(task, f"in training; {await self._kept(task)}")
        task = self.task()
        if task is None:
            return Outcome(name, None, None, "nothing to send")
        return Outcome.of(task, await self._kept(task))

    async def _kept(self, task: Task) -> str:
        return await keep_alive(self._spool, self._api, task)

    async def _send(
        self, client: EnrolledClient, pending: PendingUpdate, task: Task | None
    ) -> Outcome:
        if task is None or not client.has_pending_for(task):
            task = self._task_of(client, pending)
            await self._sender.settle(LeasedTask(client, task))
        else:
            await self._sender.upload(LeasedTask(client, task), Leases([client.name]))
            again = await self._leased_again(client, task)
            if again is not None:
                task = again
                await self._sender.upload(LeasedTask(client, task), Leases([client.name]))
        if client.is_shut_out:
            return Outcome.of(task, "shut out")
        return Outcome.of(task, "sent" if client.state.pending is None else "still to be sent")

    async def _leased_again(self, client: EnrolledClient, task: Task) -> Task | None:
        """The same work under a newer attempt, if the lease was lost while the job waited."""
        if client.state.pending is None or client.is_shut_out:
            return None
        again = await self._patience.insist(
            "asking for a lost lease",
            lambda: self._api.next_task(task.federation, 0.0, state=client.told_generation),
        )
        if again is None or not is_same_work(again, task):
            return None
        self._spool.save_task(again)
        return again

    def _task_of(self, client: EnrolledClient, pending: PendingUpdate) -> Task:
        """The work that an update of an earlier round was made for."""
        return Task(
            kind=pending.kind,
            federation=client.state.federation,
            client=client.name,
            round_number=pending.round_number,
            attempt=1,
            base_version=pending.base_version,
            base_digest=pending.base_digest or self._federation.weights_digest,
            lease_seconds=1.0,
        )

    async def _decline(self) -> None:
        declined = self._spool.declined(self._config.name)
        if declined is None:
            return
        try:
            await self._patience.insist(
                "declining a round",
                lambda: self._api.decline(declined.task, declined.kind, declined.reason),
            )
        except Refused as refusal:
            if refusal.shuts_out:
                raise
        self._spool.drop_task(declined.task)
        self._spool.drop_declined(self._config.name)
