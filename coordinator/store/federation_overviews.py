"""Queries on what a federation's rounds and clients are just doing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.rules.phases import LIVE_PHASES
from coordinator.store.tables import ClientRow, FederationRow, RoundRow
from shared.rest.schema import RoundPhase, TaskKind


@dataclass(frozen=True)
class Activity:
    """What a federation is just doing.

    Attributes:
        clients: however many there are, whatever their state.
        seen: of these, within the last moments.
        deadline_at: of the live round.
        report: of the newest committed training round that has one.
        reported_round: the number of that round.
    """

    clients: int
    seen: int
    deadline_at: datetime | None
    report: str | None
    reported_round: int | None


async def list_activity(
    session: AsyncSession, seen_since: datetime, name: str | None = None
) -> dict[str, Activity]:
    """Of every federation by its name, or of one."""
    of_federation: ColumnElement[bool] = true() if name is None else FederationRow.name == name
    rows = await session.execute(
        select(FederationRow.name, *_activity(seen_since)).where(of_federation)
    )
    return {row[0]: Activity(*row[1:]) for row in rows}


def _activity(seen_since: datetime) -> Sequence[ColumnElement[Any]]:
    """The columns of :class:`Activity`, in its order, of the federation that is selected."""
    clients = select(func.count()).where(ClientRow.federation_id == FederationRow.id)
    rounds = RoundRow.federation_id == FederationRow.id
    reported = (
        rounds,
        RoundRow.kind == TaskKind.TRAIN,
        RoundRow.phase == RoundPhase.COMMITTED,
        RoundRow.report.is_not(None),
    )
    deadline = select(RoundRow.deadline_at).where(rounds, RoundRow.phase.in_(LIVE_PHASES))
    return (
        clients.scalar_subquery(),
        clients.where(ClientRow.last_seen_at >= seen_since).scalar_subquery(),
        deadline.scalar_subquery(),
        *(
            select(column)
            .where(*reported)
            .order_by(RoundRow.number.desc())
            .limit(1)
            .scalar_subquery()
            for column in (RoundRow.report, RoundRow.number)
        ),
    )
