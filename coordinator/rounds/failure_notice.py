"""What is said of a round that failed: once, and only if the failure is committed."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.context import Context
from coordinator.rounds.round_span import round_span
from coordinator.store import assignments as assignment_store
from coordinator.store.tables import FederationRow, RoundRow
from shared.rest.schema import MAX_NAMED

_log = structlog.get_logger()


async def tell_of_failure(
    context: Context,
    session: AsyncSession,
    federation: FederationRow,
    round_: RoundRow,
    reason: str,
) -> None:
    """Logs, counts and traces a failed round when the transaction is committed, and only then."""
    name, number = federation.name, round_.number
    send_span = round_span(federation, round_)
    unheard = await assignment_store.not_heard_from(session, round_.id)

    def tell(_session: Any) -> None:
        context.metrics.rounds_closed.labels(phase="failed").inc()
        _log.warning(
            "round failed",
            federation=name,
            round=number,
            reason=reason,
            not_heard_from=", ".join(unheard[:MAX_NAMED]),
            num_not_heard_from=len(unheard),
        )
        send_span(context.clock(), has_failed=True)

    event.listen(session.sync_session, "after_commit", tell, once=True)
