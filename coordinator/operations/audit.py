"""What administrators ask of the audit log: who did what."""

from __future__ import annotations

from coordinator.context import Context
from coordinator.store import audit as store
from shared.rest.schema import AuditEvent

MAX_LISTED = 1000


async def list_events(context: Context, after: int, limit: int) -> list[AuditEvent]:
    """At most ``limit`` events whose id is over ``after``, oldest first."""
    async with context.database.reading() as session:
        rows = await store.list_after(session, after, limit)
    return [AuditEvent.model_validate(row, from_attributes=True) for row in rows]


async def list_newest(context: Context, before: int, limit: int) -> list[AuditEvent]:
    """At most ``limit`` events whose id is below ``before``, newest first."""
    async with context.database.reading() as session:
        rows = await store.list_before(session, before, limit)
    return [AuditEvent.model_validate(row, from_attributes=True) for row in rows]
