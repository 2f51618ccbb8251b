"""What a database holds, in numbers: cheap queries, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.rules.phases import LIVE_PHASES
from coordinator.store.tables import AssignmentRow, FederationRow, RoundRow


@dataclass(frozen=True)
class LiveAssignments:
    """How many assignments of one live round are in one state; without any, the state is None."""

    round_id: int
    phase: str
    opened_at: datetime
    deadline_at: datetime
    state: str | None
    count: int


async def live_assignments(session: AsyncSession) -> Sequence[LiveAssignments]:
    """Of every round that is not over. There is an index of these rounds alone."""
    columns = (RoundRow.id, RoundRow.phase, RoundRow.opened_at, RoundRow.deadline_at)
    rows = await session.execute(
        select(*columns, AssignmentRow.state, func.count(AssignmentRow.id))
        .outerjoin(AssignmentRow, AssignmentRow.round_id == RoundRow.id)
        .where(RoundRow.phase.in_(LIVE_PHASES))
        .group_by(*columns, AssignmentRow.state)
    )
    return [LiveAssignments(*row) for row in rows]


async def federations_by_state(session: AsyncSession) -> dict[str, int]:
    """How many federations are in each state that any is in."""
    query = select(FederationRow.state, func.count()).group_by(FederationRow.state)
    return {row[0]: row[1] for row in await session.execute(query)}


async def size_bytes(session: AsyncSession, *, is_sqlite: bool) -> int:
    """Bytes of the whole database: of SQLite's file, without its write-ahead log."""
    query = (
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        if is_sqlite
        else "SELECT pg_database_size(current_database())"
    )
    return int((await session.execute(text(query))).scalar_one())
