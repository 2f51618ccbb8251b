"""Aggregations that stop where a test wants."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.aggregation.aggregate import AggregatedRound, aggregate
from coordinator.rounds.driver import Driver


class HeldAggregations:
    """Aggregations stop where a test wants, in the order in which they were begun.

    A driver is given :meth:`aggregate`.
    """

    def __init__(self) -> None:
        self._holds: list[Hold] = []

    def hold_next(self, failure: Exception | None = None, *, at_start: bool = False) -> Hold:
        self._holds.append(Hold(failure, at_start))
        return self._holds[-1]

    async def aggregate(self, *arguments: Any) -> AggregatedRound:
        hold = self._holds.pop(0) if self._holds else None
        if hold is None:
            return await aggregate(*arguments)
        if hold.at_start:
            await hold.wait()
            return await aggregate(*arguments)
        result = await aggregate(*arguments)
        await hold.wait()
        return result


class Hold:
    """One aggregation that waits, before it starts or with its result, and may fail then."""

    def __init__(self, failure: Exception | None, at_start: bool) -> None:
        self.at_start = at_start
        self._failure = failure
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def wait(self) -> None:
        self._reached.set()
        await self._released.wait()
        if self._failure is not None:
            raise self._failure

    async def reached(self) -> None:
        await asyncio.wait_for(self._reached.wait(), 10)

    async def reached_by(self, driver: Driver) -> asyncio.Task[None]:
        """A step of ``driver``, once it waits here."""
        step = asyncio.create_task(driver.step())
        await self.reached()
        return step

    def let_go(self) -> None:
        self._released.set()

    async def release(self, step: asyncio.Task[None]) -> None:
        self.let_go()
        await asyncio.wait_for(step, 10)
