"""/page/federations/{name}: one federation as it goes, and what can be asked of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from coordinator.operations import federation_overviews, federations, round_cells, round_reports
from coordinator.page import policy_words
from coordinator.page.curves import curves_of
from coordinator.page.outcome_words import NOT_DRAWN, OUTCOMES
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import ActionDependency, AdministratorDependency, VisitorDependency
from coordinator.routes.dependencies import ContextDependency, NameInPath
from coordinator.rules.phases import actions_in
from coordinator.serving.page_requests import FOLDER
from shared.rest.schema import FederationAction
from shared.validation import MAX_COUNT

_ROUNDS_DRAWN = 2000
"""Newest rounds of which curves are drawn."""
_COLUMNS, _ROWS = 32, 40
"""Rounds and clients that are shown against each other."""
_OPEN_PARTS = 12
_LATEST = 8

router = APIRouter(
    prefix=f"{FOLDER}/federations/{{federation_name}}",
    route_class=PageRoute,
    include_in_schema=False,
)


@router.get("")
async def show_federation(
    federation_name: NameInPath,
    request: Request,
    context: ContextDependency,
    _visitor: VisitorDependency,
    clients: Annotated[int, Query(ge=1, le=MAX_COUNT // _ROWS)] = 1,
) -> Response:
    """Show where a federation stands, its curves, its open round, and who did what."""
    overview = await federation_overviews.show(context, federation_name)
    specification = await federation_overviews.specification(context, federation_name)
    rounds = await round_reports.list_newest(context, federation_name, _ROUNDS_DRAWN)
    return render(
        request,
        "federation.html",
        federation=overview.summary,
        overview=overview,
        actions=actions_in(overview.summary.state),
        policy=[] if specification is None else policy_words.in_words(specification),
        privacy=None if specification is None else specification.training.privacy,
        curves=await asyncio.to_thread(curves_of, rounds),
        latest=rounds[:_LATEST],
        open_round=await round_cells.open_round(context, federation_name, _OPEN_PARTS),
        matrix=await round_cells.matrix(
            context, federation_name, page=clients, clients=_ROWS, rounds=_COLUMNS
        ),
        rows=_ROWS,
        clients_page=clients,
        outcomes=OUTCOMES,
        not_drawn=NOT_DRAWN,
    )


@router.get("/{action}")
async def confirm_action(
    federation_name: NameInPath,
    action: FederationAction,
    request: Request,
    context: ContextDependency,
    _administrator: AdministratorDependency,
) -> Response:
    """Say what an action does, and ask whether it is meant."""
    overview = await federation_overviews.show(context, federation_name)
    return render(
        request,
        "federation_action.html",
        federation=overview.summary,
        overview=overview,
        specification=await federation_overviews.specification(context, federation_name),
        action=action,
        is_possible=action in actions_in(overview.summary.state),
    )


@router.post("/{action}")
async def act(
    federation_name: NameInPath,
    action: FederationAction,
    context: ContextDependency,
    _form: ActionDependency,
) -> Response:
    """Start, pause, resume or finish a federation."""
    await federations.act(context, federation_name, action)
    return RedirectResponse(f"{FOLDER}/federations/{federation_name}", status_code=303)
