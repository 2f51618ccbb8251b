"""What is told of a round that failed: one line in the log, one more in the metrics."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.context import Context
from coordinator.store import rounds as round_store
from coordinator.tables import FederationRow

_log = structlog.get_logger()


async def fail_live_round(
    context: Context, session: AsyncSession, federation: FederationRow, now: datetime, reason: str
) -> None:
    """Ends the round that is open or being aggregated, if there is one."""
    number = await round_store.fail_live(session, federation.id, now, reason)
    if number is not None:
        note_failed_round(context, session, federation, number, reason)


def note_failed_round(
    context: Context, session: AsyncSession, federation: FederationRow, number: int, reason: str
) -> None:
    """Tells of it when the transaction is committed; never, if it is rolled back."""
    name = federation.name

    def tell(_session: Any) -> None:
        context.metrics.rounds_closed.labels(phase="failed").inc()
        _log.warning("round failed", federation=name, round=number, reason=reason)

    event.listen(session.sync_session, "after_commit", tell, once=True)
