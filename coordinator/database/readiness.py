"""Whether the database answers, asked once for all who want to know at about the same time."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from sqlalchemy import text

from coordinator.clock import Clock
from coordinator.database.transactions import Database

_SHARED_FOR = timedelta(seconds=1)


class Readiness:
    """Probes come without a token and without a rate: many of them cost one connection."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: datetime | None = None

    async def check(self) -> None:
        """Returns if the database answers, or has within the last second.

        Raises:
            SQLAlchemyError: it does not.
        """
        if self._asking is None or self._is_old(self._asking):
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(_retrieve)
        # Shielded: one who hangs up leaves the question to the others.
        await asyncio.shield(self._asking)

    def _is_old(self, asking: asyncio.Task[None]) -> bool:
        if not asking.done() or self._asked_at is None:
            return False
        age = self._clock() - self._asked_at
        return not timedelta(0) <= age < _SHARED_FOR

    async def _ask(self) -> None:
        async with self._database.reading() as session:
            await session.execute(text("SELECT 1"))


def _retrieve(asking: asyncio.Task[None]) -> None:
    """Takes note of a failure that everybody who asked may have hung up on."""
    if not asking.cancelled():
        asking.exception()
