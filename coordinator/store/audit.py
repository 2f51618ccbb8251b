"""Reading audit events, and deleting old ones. There is no way to change one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.store.tables import AuditRow


async def list_after(session: AsyncSession, after: int, limit: int) -> Sequence[AuditRow]:
    """At most ``limit`` events whose id is over ``after``, oldest first."""
    query = select(AuditRow).where(AuditRow.id > after).order_by(AuditRow.id).limit(limit)
    return (await session.scalars(query)).all()


async def list_before(session: AsyncSession, before: int, limit: int) -> Sequence[AuditRow]:
    """At most ``limit`` events whose id is below ``before``, newest first."""
    query = select(AuditRow).where(AuditRow.id < before).order_by(AuditRow.id.desc()).limit(limit)
    return (await session.scalars(query)).all()


async def delete_before(session: AsyncSession, moment: datetime, limit: int) -> int:
    """Deletes at most ``limit`` events of before ``moment``, oldest first; how many it deleted."""
    oldest = select(AuditRow.id).where(AuditRow.at < moment).order_by(AuditRow.id).limit(limit)
    deleted = await session.scalars(
        delete(AuditRow).where(AuditRow.id.in_(oldest)).returning(AuditRow.id)
    )
    return len(deleted.all())
