"""/page/sessions: who is signed in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from coordinator.operations import sessions
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import ActionDependency, AdministratorDependency, VisitorDependency
from coordinator.routes.dependencies import ContextDependency
from coordinator.serving.page_requests import FOLDER
from shared.validation import MAX_COUNT

router = APIRouter(prefix=f"{FOLDER}/sessions", route_class=PageRoute, include_in_schema=False)


@router.get("")
async def list_sessions(
    request: Request, context: ContextDependency, _visitor: VisitorDependency
) -> Response:
    """List the sessions that last."""
    return render(request, "sessions.html", sessions=await sessions.list_all(context))


@router.post("/{session_id}/end")
async def end_session(
    session_id: Annotated[int, Path(ge=1, le=MAX_COUNT)],
    context: ContextDependency,
    administrator: AdministratorDependency,
    _form: ActionDependency,
) -> Response:
    """End a session."""
    await sessions.end(context, administrator.admin, session_id)
    return RedirectResponse(f"{FOLDER}/sessions", status_code=303)
