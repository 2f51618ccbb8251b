"""A client as the coordinator knows it: its way there, and the private state that it has."""

from __future__ import annotations

import structlog

from shared.crash_points import reached
from shared.rest.schema import Task
from shared.rest.state_generation import StateGeneration
from worker.remote.coordinator import Coordinator
from worker.secure_sum.member import Member
from worker.settings import ClientConfig
from worker.site import private_state
from worker.site.private_state import PrivateState

_log = structlog.get_logger()


class EnrolledClient:
    """One client with its way to the coordinator. ``state`` is always what is on disk."""

    def __init__(
        self,
        config: ClientConfig,
        api: Coordinator,
        state: PrivateState,
        member: Member | None = None,
    ) -> None:
        self.name = config.name
        self.member = member
        """What it is in secure sums; None where the federation has none."""
        self.api = api
        self.state = state
        self.tells_why = True
        """Whether the coordinator gets a line of text on why a round is declined."""
        self.is_done = False
        """No more work will come: the federation ended, or the client was shut out."""
        self.is_shut_out = False
        self.failed_in_round: int | None = None
        """The client has nothing to send for this round and waits for the next."""
        self._folder = config.state_dir

    @property
    def told_generation(self) -> StateGeneration | None:
        """What the coordinator is told of the private state; members of sums count their joins."""
        return self.state.generation if self.member is None else None

    def save(self, state: PrivateState) -> None:
        """Makes ``state`` the client's, on disk first."""
        reached("trained")
        private_state.save(self._folder, state)
        self.state = state
        reached("state-saved")

    def shut_out(self, reason: str) -> None:
        """The coordinator no longer accepts this client; its state stays as it is."""
        _log.error("client shut out", client=self.name, detail=reason)
        self.is_done = self.is_shut_out = True

    def confirm_pending(self) -> None:
        """The pending update is recorded."""
        self.save(self.state.without_pending())
        reached("update-confirmed")

    def discard_pending(self) -> None:
        """Nobody wants the pending update any longer."""
        self.save(self.state.without_unwanted())

    def has_pending_for(self, task: Task) -> bool:
        """Whether the pending update is what ``task`` asks for."""
        pending = self.state.pending
        return pending is not None and (
            pending.kind,
            pending.round_number,
            pending.base_version,
            pending.base_digest,
        ) == (task.kind, task.round_number, task.base_version, task.base_digest)
