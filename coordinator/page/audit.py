"""/page/audit: who did or saw what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from coordinator.operations import audit
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import VisitorDependency
from coordinator.routes.dependencies import ContextDependency
from coordinator.serving.page_requests import FOLDER
from shared.validation import MAX_COUNT

_ROWS = 100

router = APIRouter(prefix=f"{FOLDER}/audit", route_class=PageRoute, include_in_schema=False)


@router.get("")
async def list_audit_events(
    request: Request,
    context: ContextDependency,
    _visitor: VisitorDependency,
    before: Annotated[int, Query(ge=1, le=MAX_COUNT)] = MAX_COUNT,
) -> Response:
    """List changes, reads and refusals, newest first."""
    found = await audit.list_newest(context, before, _ROWS + 1)
    return render(
        request,
        "audit.html",
        events=found[:_ROWS],
        is_newest=before == MAX_COUNT,
        older=found[_ROWS - 1].id if len(found) > _ROWS else None,
    )
