"""Queries on a federation's clients, so many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from coordinator.store.tables import AssignmentRow, ClientRow, RoundRow, UpdateRow
from shared.rest.schema import AssignmentState


async def count(session: AsyncSession, federation_id: int) -> int:
    """How many clients the federation has, whatever their state."""
    query = select(func.count()).where(ClientRow.federation_id == federation_id)
    return (await session.scalars(query)).one()


async def list_names(
    session: AsyncSession, federation_id: int, first: int, limit: int
) -> Sequence[tuple[int, str]]:
    """Keys and names of clients in order of name, from the ``first`` on, at most ``limit``."""
    rows = await session.execute(
        select(ClientRow.id, ClientRow.name)
        .where(ClientRow.federation_id == federation_id)
        .order_by(ClientRow.name)
        .offset(first)
        .limit(limit)
    )
    return [(key, name) for key, name in rows]


@dataclass(frozen=True)
class ClientLine:
    """A client with what it has done.

    Attributes:
        rounds: whose work it has delivered.
        num_examples: of its newest update.
        is_masked: that update was of a secure sum, which knows no number of examples.
        last_reason: of the last round that it declined.
    """

    client: ClientRow
    rounds: int
    num_examples: int | None
    is_masked: bool | None
    last_reason: str | None


async def list_clients(
    session: AsyncSession, federation_id: int, first: int, limit: int
) -> Sequence[ClientLine]:
    """Clients in order of name, from the ``first`` on, at most ``limit``."""
    own = AssignmentRow.client_id == ClientRow.id
    rounds = select(func.count()).where(own, AssignmentRow.state == AssignmentState.SUBMITTED)
    newest, masked = (
        select(column)
        .select_from(UpdateRow)
        .join(AssignmentRow, AssignmentRow.id == UpdateRow.assignment_id)
        .join(RoundRow, RoundRow.id == AssignmentRow.round_id)
        .where(own)
        .order_by(AssignmentRow.id.desc())
        .limit(1)
        for column in (UpdateRow.num_examples, RoundRow.terms.is_not(None))
    )
    reason = (
        select(AssignmentRow.reason)
        .where(own, AssignmentRow.reason.is_not(None))
        .order_by(AssignmentRow.id.desc())
        .limit(1)
    )
    rows = await session.execute(
        select(
            ClientRow,
            rounds.correlate(ClientRow).scalar_subquery(),
            newest.correlate(ClientRow).scalar_subquery(),
            masked.correlate(ClientRow).scalar_subquery(),
            reason.correlate(ClientRow).scalar_subquery(),
        )
        .options(defer(ClientRow.card))
        .where(ClientRow.federation_id == federation_id)
        .order_by(ClientRow.name)
        .offset(first)
        .limit(limit)
    )
    return [ClientLine(*row) for row in rows]
