"""Waits that take no time, and are written down or ended by the test."""

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


class HeldSleep:
    """Stands in for ``asyncio.sleep``: a wait ends when the test ends it."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        end = asyncio.Event()
        self._begun.put_nowait((seconds, end))
        await end.wait()

    async def next(self) -> tuple[float, asyncio.Event]:
        """The seconds of the next wait, once it has begun, and what ends it."""
        return await asyncio.wait_for(self._begun.get(), 10)
