"""Whether this process still does its work, and why it must end if it does not."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import structlog

from coordinator.errors import DriverSilent

_log = structlog.get_logger()


class Pulse:
    """When the driver last looked at its federations, for those who judge whether it still does."""

    def __init__(
        self,
        longest_silence_seconds: float = 130.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest_silence_seconds = longest_silence_seconds
        self._monotonic = monotonic
        self._last: float | None = None

    def beat(self) -> None:
        """The driver is about to look at its federations."""
        self._last = self._monotonic()

    def silent_seconds(self) -> float:
        """Seconds since the last beat; infinite before the first."""
        return math.inf if self._last is None else self._monotonic() - self._last

    def check(self) -> None:
        """Raises DriverSilent before the first beat, and when none has come for too long."""
        if self._last is None:
            raise DriverSilent("the driver, which moves the rounds, has not started")
        silent_seconds = self.silent_seconds()
        if silent_seconds > self._longest_silence_seconds:
            raise DriverSilent(
                f"the driver, which moves the rounds, has done nothing for {silent_seconds:.0f} s"
            )


class Collapse:
    """Why this process must end: a task that it cannot do without has ended."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def watch(self, task: asyncio.Task[None]) -> None:
        """Takes note of the end of a task that should run until it is cancelled."""
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = _first(task.exception())
        how = "without an error" if error is None else f"{type(error).__name__}: {error}"
        self.reason = f"the {task.get_name()} ended: {how}"
        _log.critical("process ends", reason=self.reason, exc_info=error)


def _first(error: BaseException | None) -> BaseException | None:
    """The error, or the first of a group, which says nothing itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
