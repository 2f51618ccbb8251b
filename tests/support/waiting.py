"""Waits that take no time and are written down."""

from __future__ import annotations

import asyncio


class RecordedSleep:
    """Stands in for ``asyncio.sleep``: lets others run, moves its own clock, remembers the wait."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.now = 0.0

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def monotonic(self) -> float:
        """The time that its waits have taken together."""
        return self.now
