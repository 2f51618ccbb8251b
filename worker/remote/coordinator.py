"""What the work on rounds asks of a coordinator, however far away that is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from shared.rest.declines import DeclineKind
from shared.rest.schema import FederationView, HeartbeatReply, Receipt, Task
from shared.rest.state_generation import StateGeneration
from shared.rest.worker_about import WorkerAbout
from shared.secure_sum.cards import Card
from shared.secure_sum.messages import Confirmation, Join, Unmasking


class Coordinator(Protocol):
    """One client's side of it; see :class:`worker.remote.coordinator_api.CoordinatorApi`."""

    async def close(self) -> None:
        """Nothing more is asked."""

    async def fetch_federation(self, federation: str) -> FederationView:
        """The federation with its specification."""

    async def next_task(
        self,
        federation: str,
        wait_seconds: float,
        about: WorkerAbout | None = None,
        state: StateGeneration | None = None,
    ) -> Task | None:
        """Work, if there is some."""

    async def heartbeat(self, task: Task) -> HeartbeatReply:
        """Prolongs the task's lease."""

    async def decline(
        self, task: Task, kind: DeclineKind, reason: str, joined_round: int | None = None
    ) -> None:
        """Says why the client takes no part in the task's round."""

    async def put_card(self, card: Card) -> None:
        """Shows the client's public keys."""

    async def put_message(self, task: Task, message: Join | Confirmation | Unmasking) -> None:
        """Sends the task's message of a secure sum."""

    async def put_update(
        self, task: Task, update: bytes, state: StateGeneration | None = None
    ) -> Receipt:
        """Sends an update.

        Raises:
            NotSentYet: it stays saved until another process sends it.
        """

    async def fetch_weights_digest(self, federation: str, version: int) -> str:
        """The digest that a version is known by."""

    async def fetch_weights(
        self,
        federation: str,
        version: int,
        file: Path,
        *,
        max_bytes: int,
        since: int | None = None,
    ) -> None:
        """Writes a version's file, or the deltas from version ``since`` on."""
