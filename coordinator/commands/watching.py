"""What ``hyperfl round watch`` says, and when: rounds, changes of state, who is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from coordinator.commands.connection import Connection
from coordinator.errors import CoordinatorSilent
from shared.rest.schema import FederationState, FederationView, RoundPhase, RoundSummary

POLL_SECONDS = 0.5
SAID_AFTER_SECONDS = 10.0
"""A round that waits for the same clients for so long says for whom."""

_ENDED = (FederationState.FINISHED, FederationState.FAILED)
CLOSED = (RoundPhase.COMMITTED, RoundPhase.FAILED)
"""Phases in which a round changes no more."""

Event = dict[str, Any]
"""One of ``round``: a closed round. ``federation``: its state or reason is another than before.
``waiting``: the live round, which waits for the same clients as ten seconds ago. ``silent``: why
the coordinator does not answer; None once it does again."""


class Watch:
    """Asks a coordinator about one federation until that has ended."""

    def __init__(
        self,
        connection: Connection,
        federation: str,
        say: Callable[[Event], None],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._path = f"/v1/federations/{federation}"
        self._say = say
        self._sleep = sleep
        self._monotonic = monotonic
        self._first = 1
        """Number of the first round that has not been said."""
        self._standing: tuple[str, str | None] | None = None
        self._waiting: tuple[int, int, tuple[str, ...]] | None = None
        self._waits_since = 0.0
        self._is_silent = False

    def run(self) -> dict[str, Any]:
        """The federation, once it has ended.

        A pause or a restart of the coordinator is waited out.

        Raises:
            CoordinatorSilent: nobody answered the first time.
        """
        found = self._look()
        while found is None or found["state"] not in _ENDED:
            self._sleep(POLL_SECONDS)
            try:
                found = self._look()
                self._note_silence(None)
            except CoordinatorSilent as error:
                self._note_silence(str(error))
        return found

    def _note_silence(self, reason: str | None) -> None:
        if self._is_silent != (reason is not None):
            self._say({"silent": reason})
        self._is_silent = reason is not None

    def _look(self) -> dict[str, Any]:
        # Asked before the rounds, so that none that closed meanwhile is missed at the end.
        found: dict[str, Any] = self._connection.get(self._path, FederationView)
        live = None
        for one in self._connection.get(
            f"{self._path}/rounds", list[RoundSummary], first=self._first
        ):
            if one["phase"] not in CLOSED:
                live = one
                break
            self._say({"round": one})
            self._first = one["number"] + 1
        standing = (found["state"], found["reason"])
        if standing != self._standing and found["state"] not in _ENDED:
            self._say({"federation": found})
        self._standing = standing
        self._look_at(live if found["state"] == FederationState.RUNNING else None)
        return found

    def _look_at(self, live: dict[str, Any] | None) -> None:
        now, waiting = self._monotonic(), None
        if live is not None:
            waiting = (live["number"], live["updates_received"], tuple(live["not_heard_from"]))
        if waiting != self._waiting:
            self._waiting, self._waits_since = waiting, now
        elif live is not None and now - self._waits_since >= SAID_AFTER_SECONDS:
            self._say({"waiting": live})
            self._waits_since = float("inf")
