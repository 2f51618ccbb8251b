"""Says in the log that the federation gives no work, and why: a poll's answer does not."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from shared.rest.schema import FederationState
from worker.errors import RequestFailed
from worker.remote.coordinator import Coordinator

_LOOK_SECONDS = 60.0
"""Soon enough for people; rarer than polls, since the answer carries the specification."""
_AGAIN_SECONDS = 3600.0

_log = structlog.get_logger()


class PauseNotice:
    """Looks at a federation whose polls bring nothing; a line for each pause, and each hour of it.

    ``clock`` gives seconds that only grow.
    """

    def __init__(self, federation: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._federation = federation
        self._clock = clock
        self._looked_at: float | None = None
        self._said_at: float | None = None

    async def look(self, api: Coordinator) -> None:
        """Asks how the federation stands, unless that was asked a minute ago."""
        now = self._clock()
        if self._looked_at is not None and now < self._looked_at + _LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            federation = await api.fetch_federation(self._federation)
        except RequestFailed:
            return  # the next poll meets it too, and decides
        if federation.state not in (FederationState.PAUSED, FederationState.DRAFT):
            self._said_at = None
        elif self._said_at is None or now >= self._said_at + _AGAIN_SECONDS:
            self._said_at = now
            _log.warning(
                "no work: the federation is not running",
                state=federation.state.value,
                reason=federation.reason,
            )
