"""Who looks at the page, and whether a form that is sent is theirs."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError

from coordinator.access.identity import Visitor, identify_session
from coordinator.errors import Forbidden, UnsupportedMediaType
from coordinator.routes.dependencies import ContextDependency
from coordinator.routes.json_route import read_body
from coordinator.serving.page_requests import session_secret

_FORM_BYTES = 16 << 10
_MAX_FIELDS = 20
_FORM = "application/x-www-form-urlencoded"

Form = Mapping[str, str]


def invalid_form(field: str, what: str) -> RequestValidationError:
    """For a field of a form that is not what it has to be."""
    return RequestValidationError([{"type": "value_error", "loc": (field,), "msg": what}])


async def get_visitor(request: Request, context: ContextDependency) -> Visitor:
    """Who is signed in.

    Raises:
        Unauthenticated: nobody.
    """
    visitor = await identify_session(context, session_secret(request.scope, context.settings))
    request.state.visitor = visitor
    scope = "admin" if visitor.admin.may_write else "read-only"
    request.state.actor = f"{scope} {visitor.admin.name}"
    if hasattr(request.state, "token_is_valid"):
        request.state.token_is_valid()
    return visitor


VisitorDependency = Annotated[Visitor, Depends(get_visitor)]


async def require_administrator(visitor: VisitorDependency) -> Visitor:
    """Lets those pass who may change something.

    Raises:
        Forbidden: the session was opened with a read-only token.
    """
    if not visitor.admin.may_write:
        raise Forbidden("this session was opened with a read-only token")
    return visitor


AdministratorDependency = Annotated[Visitor, Depends(require_administrator)]


async def read_form(request: Request, context: ContextDependency) -> Form:
    """The fields of a form that this site's own page sends; of a name sent twice the last counts.

    Raises:
        Forbidden: the browser says that another site's page sends it.
        UnsupportedMediaType: it is no form.
        BodyTooLarge, BodyTooSlow: as of any body.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("this form was sent by another site's page")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise UnsupportedMediaType(f"a form is sent as {_FORM}")
    body = await read_body(request, _FORM_BYTES, context.settings.json_body_seconds)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return {}
    return dict(fields)


async def get_form(
    request: Request, visitor: VisitorDependency, context: ContextDependency
) -> Form:
    """The fields of a form that this session's page made for this address.

    Raises:
        Forbidden: it is another session's, or was made for something else.
    """
    form = await read_form(request, context)
    wanted = visitor.form_token(request.url.path)
    if not hmac.compare_digest(form.get("form_token", "").encode(), wanted.encode()):
        raise Forbidden("this form is not of your session: load its page again")
    return form


FormDependency = Annotated[Form, Depends(get_form)]


async def get_action(_administrator: AdministratorDependency, form: FormDependency) -> Form:
    """The form of an action, from somebody who may do it."""
    return form


ActionDependency = Annotated[Form, Depends(get_action)]
