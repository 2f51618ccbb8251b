"""/page/sign-in and /page/sign-out: from a token to a session, and out of it."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from coordinator.access.credentials import session_cookie
from coordinator.context import Context
from coordinator.errors import Unauthenticated
from coordinator.operations import sessions
from coordinator.page.page_route import SIGN_IN, PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import Form, FormDependency, VisitorDependency, read_form
from coordinator.routes.dependencies import ContextDependency
from coordinator.serving.page_requests import FOLDER, is_over_tls

_OWN_PATH = re.compile(rf"/|{FOLDER}(/[\w.-]+)*(\?[\w.=&%-]*)?", re.ASCII)
"""Where a sign-in may lead to: to no other host."""
_LONGEST_TOKEN = 200

router = APIRouter(prefix=FOLDER, route_class=PageRoute, include_in_schema=False)


@router.get("/sign-in")
async def show_sign_in(
    request: Request, next_: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> Response:
    """Show the form that takes a token."""
    return render(request, "sign_in.html", next=_own(next_), refusal=None)


@router.post("/sign-in")
async def sign_in(
    request: Request, context: ContextDependency, form: Annotated[Form, Depends(read_form)]
) -> Response:
    """Open a session for a valid token."""
    target = _own(form.get("next", "/"))
    address = request.client.host if request.client else "unknown"
    try:
        visitor = await sessions.sign_in(context, form.get("token", "")[:_LONGEST_TOKEN], address)
    except Unauthenticated as refusal:
        request.state.problem = "unauthenticated"
        page = render(request, "sign_in.html", next=target, refusal=refusal.detail)
        page.status_code = 401
        return page
    scope = "admin" if visitor.admin.may_write else "read-only"
    request.state.actor = f"{scope} {visitor.admin.name}"
    request.state.subject = f"session={visitor.session_id}"
    response = RedirectResponse(target, status_code=303)
    lasts = visitor.expires_at - context.clock()
    _set_cookie(response, request, context, visitor.secret, int(lasts.total_seconds()))
    return response


@router.post("/sign-out")
async def sign_out(
    request: Request, context: ContextDependency, visitor: VisitorDependency, _form: FormDependency
) -> Response:
    """End the session that asks."""
    request.state.subject = f"session={visitor.session_id}"
    await sessions.end(context, visitor.admin, visitor.session_id)
    response = RedirectResponse(SIGN_IN, status_code=303)
    _set_cookie(response, request, context, "", 0)
    return response


def _own(target: str) -> str:
    return target if _OWN_PATH.fullmatch(target) else "/"


def _set_cookie(
    response: Response, request: Request, context: Context, value: str, seconds: int
) -> None:
    is_secure = is_over_tls(request.scope, context.settings)
    response.set_cookie(
        session_cookie(is_over_tls=is_secure),
        value,
        max_age=seconds,
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="strict",
    )
