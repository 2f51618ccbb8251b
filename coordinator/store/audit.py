"""Writing and reading audit events. There is no way to change one."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.store.tables import AuditRow


async def list_after(session: AsyncSession, after: int, limit: int) -> Sequence[AuditRow]:
    """At most ``limit`` events whose id is over ``after``, oldest first."""
    query = select(AuditRow).where(AuditRow.id > after).order_by(AuditRow.id).limit(limit)
    return (await session.scalars(query)).all()
