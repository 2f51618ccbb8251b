"""A question to the database, asked once for all who want to know at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from coordinator.clock import Clock

_SHARED_FOR = timedelta(seconds=1)

Answer = TypeVar("Answer")


class SharedQuestion(Generic[Answer]):
    """Those who ask may come often, and need no token: many of them cost one connection."""

    def __init__(self, ask: Callable[[], Awaitable[Answer]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._asking: asyncio.Task[Answer] | None = None
        self._asked_at: datetime | None = None

    async def answer(self) -> Answer:
        """The answer, at most a second old; raises what asking raised."""
        if self._asking is None or self._is_old(self._asking):
            self._asked_at = self._clock()
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(_retrieve)
        # Shielded: one who hangs up leaves the question to the others.
        return await asyncio.shield(self._asking)

    def _is_old(self, asking: asyncio.Task[Answer]) -> bool:
        if not asking.done() or self._asked_at is None:
            return False
        age = self._clock() - self._asked_at
        return not timedelta(0) <= age < _SHARED_FOR


def _retrieve(asking: asyncio.Task[Answer]) -> None:
    """Takes note of a failure that everybody who asked may have hung up on."""
    if not asking.cancelled():
        asking.exception()
