"""Queries on a federation's clients, so many at a time."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.store.tables import ClientRow


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


async def list_clients(
    session: AsyncSession, federation_id: int, first: int, limit: int
) -> Sequence[ClientRow]:
    """Clients in order of name, from the ``first`` on, at most ``limit``."""
    query = (
        select(ClientRow)
        .where(ClientRow.federation_id == federation_id)
        .order_by(ClientRow.name)
        .offset(first)
        .limit(limit)
    )
    return (await session.scalars(query)).all()
