"""/page/federations/{name}/rounds: how rounds went."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from coordinator.operations import federations, round_cells, round_reports
from coordinator.page.outcome_words import OUTCOMES
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import VisitorDependency
from coordinator.routes.dependencies import ContextDependency, NameInPath
from coordinator.serving.page_requests import FOLDER
from shared.validation import MAX_COUNT

_ROWS = 50
_PARTS = 100

router = APIRouter(
    prefix=f"{FOLDER}/federations/{{federation_name}}/rounds",
    route_class=PageRoute,
    include_in_schema=False,
)


@router.get("")
async def list_rounds(
    federation_name: NameInPath,
    request: Request,
    context: ContextDependency,
    _visitor: VisitorDependency,
    before: Annotated[int, Query(ge=1, le=MAX_COUNT)] = MAX_COUNT,
) -> Response:
    """List rounds, newest first."""
    found = await round_reports.list_newest(context, federation_name, _ROWS + 1, before)
    return render(
        request,
        "rounds.html",
        federation=await federations.show(context, federation_name),
        rounds=found[:_ROWS],
        has_epsilon=any(one.metric("epsilon_spent") for one in found),
        is_newest=before == MAX_COUNT,
        older=found[_ROWS - 1].number if len(found) > _ROWS else None,
    )


@router.get("/{round_number}")
async def show_round(
    federation_name: NameInPath,
    round_number: Annotated[int, Path(ge=1, le=MAX_COUNT)],
    request: Request,
    context: ContextDependency,
    _visitor: VisitorDependency,
    page: Annotated[int, Query(ge=1, le=MAX_COUNT // _PARTS)] = 1,
) -> Response:
    """Show one round with clients' parts in it."""
    parts = await round_cells.list_parts(
        context, federation_name, round_number, page=page, size=_PARTS
    )
    (shown,) = await round_reports.list_newest(context, federation_name, 1, round_number + 1)
    return render(
        request,
        "round.html",
        federation=await federations.show(context, federation_name),
        round=shown,
        parts=parts,
        first=(page - 1) * _PARTS + 1,
        page=page,
        outcomes=OUTCOMES,
    )
