"""One coordinator's lease of a round that it aggregates, extended for as long as it works."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from coordinator.context import Context
from coordinator.database.outages import isolated
from coordinator.errors import AggregationLeaseLost
from coordinator.rules.phases import ROUND_TRANSITIONS, RoundEvent
from coordinator.store import rounds as round_store
from coordinator.store.tables import RoundRow
from shared.crash_points import reached

Sleep = Callable[[float], Awaitable[None]]


class AggregationLease:
    """Claim it, work within :meth:`kept`, and make every write of the result depend on it."""

    def __init__(self, context: Context, round_: RoundRow, sleep: Sleep = asyncio.sleep) -> None:
        self._context = context
        self._round_id = round_.id
        self._sleep = sleep
        self._token = secrets.token_hex(16)
        self._commit_decides = False

    @property
    def still_ours(self) -> Any:
        """Condition of a write to the round: its aggregation is still ours."""
        return round_store.leased_under(self._token)

    async def claim(self) -> bool:
        """Takes the round's aggregation; false if somebody else has it."""
        async with self._context.database.writing() as session:
            claimed = await round_store.move(
                session,
                self._round_id,
                ROUND_TRANSITIONS[RoundEvent.CLAIM],
                round_store.not_leased_at(self._context.clock()),
                claimed_at=self._context.clock(),
                lease_token=self._token,
                lease_expires_at=self._end(),
            )
            reached("aggregation-claimed-uncommitted")
        reached("aggregation-claimed")
        return claimed

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Extends the lease every third of it until the block ends; without it the block is ended.

        Raises:
            AggregationLeaseLost: the lease was lost, and the block cancelled.
        """
        block = asyncio.timeout(None)
        try:
            async with block:
                extending = asyncio.create_task(self._extend_until_lost(block))
                try:
                    yield
                finally:
                    extending.cancel()
                    await asyncio.gather(extending, return_exceptions=True)
        except TimeoutError:
            if not block.expired():
                raise
            raise AggregationLeaseLost from None

    def leave_to_commit(self) -> None:
        """From now on the commit finds out whether the round is ours.

        It ends the lease itself, and must not be cancelled for that.
        """
        self._commit_decides = True

    async def _extend_until_lost(self, block: asyncio.Timeout) -> None:
        is_ours = True
        while is_ours:
            await self._sleep(self._context.settings.aggregation_lease_seconds / 3)
            # What fails is tried again: as long as nobody takes the round over nothing is lost.
            with isolated("aggregation lease could not be extended", outages_too=True):
                is_ours = await self._extend()
        if not self._commit_decides:
            block.reschedule(asyncio.get_running_loop().time())

    async def _extend(self) -> bool:
        async with self._context.database.writing() as session:
            return await round_store.extend_aggregation(
                session, self._round_id, self._token, self._end()
            )

    def _end(self) -> datetime:
        lease = timedelta(seconds=self._context.settings.aggregation_lease_seconds)
        return self._context.clock() + lease
