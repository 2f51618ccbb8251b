"""The coordinator as training sees it that has no network: the folder, and nothing beyond it."""

# ruff: noqa: ARG002 - an interface's arguments, of which a folder needs few

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from shared.rest.declines import DeclineKind
from shared.rest.problems import Problem, ProblemType
from shared.rest.schema import FederationView, HeartbeatReply, Receipt, Task
from shared.rest.state_generation import StateGeneration
from shared.rest.worker_about import WorkerAbout
from shared.secure_sum.cards import Card
from shared.secure_sum.messages import Confirmation, Join, Unmasking
from worker.errors import ConfigError, NotSentYet, Refused
from worker.remote.coordinator import Coordinator
from worker.remote.patience import Patience
from worker.settings import ClientConfig, WorkerConfig
from worker.site.parts import Datasets
from worker.spool.folder import Declined, Spool, is_same_work


class SpoolApi:
    """See :class:`worker.remote.coordinator.Coordinator`."""

    def __init__(self, spool: Spool, federation: FederationView, client: str) -> None:
        self._spool = spool
        self._federation = federation
        self._client = client

    async def close(self) -> None:
        """Nothing is open."""

    async def fetch_federation(self, federation: str) -> FederationView:
        """As it was fetched last."""
        return self._federation

    async def next_task(
        self,
        federation: str,
        wait_seconds: float,
        about: WorkerAbout | None = None,
        state: StateGeneration | None = None,
    ) -> Task | None:
        """The client's, if one was fetched and is not declined."""
        task, declined = self._spool.task(self._client), self._spool.declined(self._client)
        if task is None or (declined is not None and is_same_work(declined.task, task)):
            return None
        return task

    async def heartbeat(self, task: Task) -> HeartbeatReply:
        """Whoever sends keeps the lease alive, and takes the task away when its round is over."""
        kept = self._spool.task(self._client)
        if kept is None or not is_same_work(kept, task):
            raise Refused(
                Problem.of(ProblemType.ROUND_CLOSED, f"round {task.round_number} is over")
            )
        return HeartbeatReply(
            round_number=kept.round_number, attempt=kept.attempt, lease_seconds=kept.lease_seconds
        )

    async def decline(
        self, task: Task, kind: DeclineKind, reason: str, joined_round: int | None = None
    ) -> None:
        """Keeps the reason until it is sent."""
        self._spool.save_declined(Declined(task=task, kind=kind, reason=reason))

    async def put_update(
        self, task: Task, update: bytes, state: StateGeneration | None = None
    ) -> Receipt:
        """Nothing: the update is in the private state, and is sent from there."""
        raise NotSentYet(
            f"client {self._client} has an update of round {task.round_number} that is to be sent: "
            "run `hyperfl worker send`, where there is a network"
        )

    async def put_card(self, card: Card) -> None:
        """No sums are done here."""
        self._refuse("keys")

    async def put_message(self, task: Task, message: Join | Confirmation | Unmasking) -> None:
        """No sums are done here."""
        self._refuse("messages of secure sums")

    async def fetch_weights_digest(self, federation: str, version: int) -> str:
        """Weights of other rounds are not in the folder."""
        self._refuse(f"version {version} of the weights")

    async def fetch_weights(
        self,
        federation: str,
        version: int,
        file: Path,
        *,
        max_bytes: int,
        since: int | None = None,
    ) -> None:
        """The cache finds in the folder what was fetched; all else is not there."""
        self._refuse(f"version {version} of the weights")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(f"{self._spool.folder} has not {what}: run `hyperfl worker fetch` again")


class SpoolDoor:
    """See :class:`worker.site.admission.Door`."""

    def __init__(self, spool: Spool, federation: FederationView) -> None:
        self._spool = spool
        self._federation = federation

    def weights_folder(self, config: WorkerConfig) -> Path:
        """That of the spool."""
        return self._spool.weights

    def check(self, config: WorkerConfig, datasets: Datasets) -> None:
        """Nobody enrols here, so nothing is spent by what is wrong."""

    async def admit(
        self, client: ClientConfig, federation: str, patience: Patience
    ) -> tuple[Coordinator, FederationView | None]:
        """The folder, as it was left by whoever fetched."""
        return SpoolApi(self._spool, self._federation, client.name), self._federation
