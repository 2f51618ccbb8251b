"""Queries on the tokens of administrators, which have names."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.tables import TokenRow


async def list_named(session: AsyncSession) -> Sequence[TokenRow]:
    """All of them, in order of name."""
    query = select(TokenRow).where(TokenRow.name.is_not(None)).order_by(TokenRow.name)
    return (await session.scalars(query)).all()


async def delete_named(session: AsyncSession, name: str) -> bool:
    """Removes a token; false if there is none of this name."""
    query = delete(TokenRow).where(TokenRow.name == name).returning(TokenRow.id)
    return await session.scalar(query) is not None
