"""Every route of the page, in one router that app.py takes or leaves."""

from __future__ import annotations

from fastapi import APIRouter, Response

from coordinator.errors import UnknownThing
from coordinator.page import (
    audit,
    clients,
    federation,
    federations,
    rounds,
    sessions,
    sign_in,
    tokens,
    weights,
)
from coordinator.page.asset_files import assets
from coordinator.page.page_route import PageRoute
from coordinator.page.visitor import VisitorDependency
from coordinator.serving.page_requests import FOLDER

_own = APIRouter(prefix=FOLDER, route_class=PageRoute, include_in_schema=False)


@_own.get("/assets/{name}")
async def get_asset(name: str) -> Response:
    """Send a script or a style; anybody may have it."""
    if name not in assets():
        raise UnknownThing("there is no such asset")
    found = assets()[name]
    kept = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(found.content, media_type=found.media_type, headers=kept)


@_own.get("/{rest:path}")
async def get_nothing(rest: str, _visitor: VisitorDependency) -> Response:
    """Say that there is no such page."""
    raise UnknownThing(f"there is no page {rest[:100]}")


router = APIRouter()
for _part in (
    sign_in.router,
    federations.router,
    clients.router,
    rounds.router,
    weights.router,
    federation.router,
    audit.router,
    tokens.router,
    sessions.router,
    _own,
):
    router.include_router(_part)
