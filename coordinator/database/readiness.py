"""Whether the database answers."""

from __future__ import annotations

from sqlalchemy import text

from coordinator.clock import Clock
from coordinator.database.shared_question import SharedQuestion
from coordinator.database.transactions import Database


class Readiness:
    """Probes come without a token and without a rate; see :class:`SharedQuestion`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._question = SharedQuestion(self._ask, clock)

    async def check(self) -> None:
        """Returns if the database answers, or has within the last second.

        Raises:
            SQLAlchemyError: it does not.
        """
        await self._question.answer()

    async def _ask(self) -> None:
        async with self._database.reading() as session:
            await session.execute(text("SELECT 1"))
