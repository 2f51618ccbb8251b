"""/: every federation at a glance."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from coordinator.operations import federation_overviews
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import VisitorDependency
from coordinator.routes.dependencies import ContextDependency

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
async def list_federations(
    request: Request, context: ContextDependency, _visitor: VisitorDependency
) -> Response:
    """List all federations."""
    found = await federation_overviews.list_all(context)
    return render(request, "federations.html", federations=found)
