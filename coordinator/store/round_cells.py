"""Queries on who did what in which round: for tables of clients and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.store.tables import AssignmentRow, ClientRow, UpdateRow
from shared.rest.schema import AssignmentState


@dataclass(frozen=True)
class Cell:
    """One client's work in one round."""

    round_id: int
    client_id: int
    state: str
    reason: str | None
    has_update: bool


async def list_cells(
    session: AsyncSession, round_ids: Sequence[int], client_ids: Sequence[int]
) -> Sequence[Cell]:
    """The work of some clients in some rounds, in no order."""
    rows = await session.execute(
        select(
            AssignmentRow.round_id,
            AssignmentRow.client_id,
            AssignmentRow.state,
            AssignmentRow.reason,
            UpdateRow.id.is_not(None),
        )
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.round_id.in_(round_ids), AssignmentRow.client_id.in_(client_ids))
    )
    return [Cell(*row) for row in rows]


@dataclass(frozen=True)
class OpenPart:
    """One client's work in a round that is not over."""

    client: str
    state: str
    reason: str | None
    attempt: int
    lease_expires_at: datetime | None
    last_seen_at: datetime | None
    has_update: bool


async def list_open_parts(session: AsyncSession, round_id: int, limit: int) -> Sequence[OpenPart]:
    """At most ``limit`` clients of a round's cohort: first those that the round waits for."""
    is_done = AssignmentRow.state.in_((AssignmentState.SUBMITTED, AssignmentState.DROPPED))
    rows = await session.execute(
        select(
            ClientRow.name,
            AssignmentRow.state,
            AssignmentRow.reason,
            AssignmentRow.attempt,
            AssignmentRow.lease_expires_at,
            ClientRow.last_seen_at,
            UpdateRow.id.is_not(None),
        )
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.round_id == round_id)
        .order_by(is_done, ClientRow.name)
        .limit(limit)
    )
    return [OpenPart(*row) for row in rows]


async def list_parts(
    session: AsyncSession, round_id: int, first: int, limit: int
) -> Sequence[tuple[AssignmentRow, str, UpdateRow | None]]:
    """Assignments of a round with client name and update, in order of name."""
    rows = await session.execute(
        select(AssignmentRow, ClientRow.name, UpdateRow)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.round_id == round_id)
        .order_by(ClientRow.name)
        .offset(first)
        .limit(limit)
    )
    return [(assignment, name, recorded) for assignment, name, recorded in rows]


async def count_states(session: AsyncSession, round_id: int) -> dict[str, int]:
    """How many of a round's cohort are in each state that any is in."""
    rows = await session.execute(
        select(AssignmentRow.state, func.count())
        .where(AssignmentRow.round_id == round_id)
        .group_by(AssignmentRow.state)
    )
    return {row[0]: row[1] for row in rows}
