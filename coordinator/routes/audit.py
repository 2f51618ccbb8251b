"""/v1/audit: who did or saw what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from coordinator.operations import audit
from coordinator.routes.dependencies import AdminDependency, ContextDependency
from shared.rest.schema import AuditEvent
from shared.validation import MAX_COUNT

router = APIRouter(prefix="/v1", tags=["access"])


@router.get("/audit")
async def list_audit_events(
    context: ContextDependency,
    _admin: AdminDependency,
    after: Annotated[int, Query(ge=0, le=MAX_COUNT)] = 0,
    limit: Annotated[int, Query(ge=1, le=audit.MAX_LISTED)] = 100,
) -> list[AuditEvent]:
    """List changes, reads and refusals with an id above ``after``, oldest first."""
    return await audit.list_events(context, after, limit)
