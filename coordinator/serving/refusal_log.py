"""Logs what was refused or closed at a bound, only so often that nobody fills the disk."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from coordinator.serving.rate_limiter import RateLimiter

_LOGGED_PER_SECOND, _LOGGED_AT_ONCE = 1.0, 10.0

_log = structlog.get_logger()


class RefusalLog:
    """Logs ``event`` with its reason; of each reason not all, and how many were left out."""

    def __init__(self, event: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._event = event
        self._monotonic = monotonic
        self._rates = RateLimiter(_LOGGED_PER_SECOND, _LOGGED_AT_ONCE)
        self._left_out = 0

    def note(self, reason: str, address: str) -> None:
        """It happened to ``address``."""
        if self._rates.spend(reason, self._monotonic()) > 0:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        _log.warning(self._event, reason=reason, address=address, left_out=left_out)
