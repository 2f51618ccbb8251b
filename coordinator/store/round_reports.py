"""Queries on what rounds came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.rules.round_report import RoundPart
from coordinator.store.tables import AssignmentRow, RoundRow, UpdateRow
from shared.rest.declines import from_text


@dataclass(frozen=True)
class UnreportedRound:
    """A round that is closed, and of which nobody has written down yet what it came to."""

    id: int
    metrics: dict[str, float] | None


async def list_unreported(session: AsyncSession, limit: int) -> Sequence[UnreportedRound]:
    """At most ``limit`` of them; there is an index of these rounds alone."""
    rows = await session.execute(
        select(RoundRow.id, RoundRow.metrics)
        .where(RoundRow.closed_at.is_not(None), RoundRow.report.is_(None))
        .order_by(RoundRow.id)
        .limit(limit)
    )
    return [UnreportedRound(*row) for row in rows]


async def parts_of(session: AsyncSession, round_id: int) -> Sequence[RoundPart]:
    """Every client's part in a round, in no order."""
    rows = await session.execute(
        select(
            AssignmentRow.reason,
            AssignmentRow.bytes_down,
            UpdateRow.size_bytes,
            UpdateRow.metrics,
        )
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.round_id == round_id)
    )
    return [
        RoundPart(None if reason is None else from_text(reason)[0], down, up, metrics)
        for reason, down, up, metrics in rows
    ]


async def write(session: AsyncSession, round_id: int, report: str) -> None:
    """Writes down what a round came to, unless another replica has."""
    await session.execute(
        update(RoundRow)
        .where(RoundRow.id == round_id, RoundRow.report.is_(None))
        .values(report=report)
    )


@dataclass(frozen=True)
class RoundLine:
    """A round with its report, where there is one yet."""

    id: int
    number: int
    kind: str
    phase: str
    reason: str | None
    new_version: int | None
    opened_at: datetime
    deadline_at: datetime
    claimed_at: datetime | None
    closed_at: datetime | None
    metrics: dict[str, float] | None
    report: str | None


async def list_newest(
    session: AsyncSession, federation_id: int, before: int, limit: int
) -> Sequence[RoundLine]:
    """At most ``limit`` rounds of numbers below ``before``, newest first."""
    rows = await session.execute(
        select(
            RoundRow.id,
            RoundRow.number,
            RoundRow.kind,
            RoundRow.phase,
            RoundRow.reason,
            RoundRow.new_version,
            RoundRow.opened_at,
            RoundRow.deadline_at,
            RoundRow.claimed_at,
            RoundRow.closed_at,
            RoundRow.metrics,
            RoundRow.report,
        )
        .where(RoundRow.federation_id == federation_id, RoundRow.number < before)
        .order_by(RoundRow.number.desc())
        .limit(limit)
    )
    return [RoundLine(**row._mapping) for row in rows]
