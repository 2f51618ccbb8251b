"""/metrics: for Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response, Security
from prometheus_client import CONTENT_TYPE_LATEST

from coordinator.operations.metrics import Scrapes
from coordinator.routes.dependencies import (
    BEARER,
    ContextDependency,
    get_principal,
    require_admin,
)

router = APIRouter(tags=["health"])


async def get_scrapes(request: Request) -> Scrapes:
    """What app.py built, one for all requests."""
    scrapes: Scrapes = request.app.state.scrapes
    return scrapes


async def require_reader(
    request: Request,
    context: ContextDependency,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
    _declared: Annotated[object, Security(BEARER)] = None,
) -> None:
    """Lets administrators and readers pass; everyone where the settings ask for no token."""
    if context.settings.metrics_need_token:
        await require_admin(request, await get_principal(request, context, authorization))


@router.get("/metrics", response_class=Response, dependencies=[Depends(require_reader)])
async def metrics(scrapes: Annotated[Scrapes, Depends(get_scrapes)]) -> Response:
    """Counters in Prometheus' text format."""
    return Response(await scrapes.answer(), media_type=CONTENT_TYPE_LATEST)
