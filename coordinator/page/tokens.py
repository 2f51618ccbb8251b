"""/page/tokens: who may do what."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from coordinator.operations import tokens
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import (
    ActionDependency,
    AdministratorDependency,
    VisitorDependency,
    invalid_form,
)
from coordinator.routes.dependencies import ContextDependency, NameInPath
from coordinator.serving.page_requests import FOLDER
from shared.rest.schema import TokenRequest, TokenScope
from shared.validation import first_fault

_DAY_SECONDS = 86400.0

router = APIRouter(prefix=f"{FOLDER}/tokens", route_class=PageRoute, include_in_schema=False)


@router.get("")
async def list_tokens(
    request: Request, context: ContextDependency, _visitor: VisitorDependency
) -> Response:
    """List the tokens of administrators and readers."""
    return render(
        request,
        "tokens.html",
        tokens=await tokens.list_all(context),
        scopes=list(reversed(TokenScope)),
    )


@router.post("")
async def create_token(
    request: Request, context: ContextDependency, form: ActionDependency
) -> Response:
    """Create a token, and show it, this once."""
    days = form.get("valid_days", "").strip()
    try:
        wanted = TokenRequest.model_validate(
            {
                "name": form.get("name", "").strip(),
                "scope": form.get("scope", ""),
                "valid_seconds": float(days) * _DAY_SECONDS if days else None,
            }
        )
    except ValidationError as error:
        raise invalid_form(*first_fault(error)) from None
    except ValueError:
        raise invalid_form("valid_days", "not a number") from None
    request.state.subject = f"token={wanted.name} scope={wanted.scope}"
    return render(request, "token.html", token=await tokens.create(context, wanted))


@router.get("/{token_name}/revoke")
async def confirm_revocation(
    token_name: NameInPath, request: Request, _administrator: AdministratorDependency
) -> Response:
    """Say what a revocation does, and ask whether it is meant."""
    return render(request, "token_action.html", name=token_name)


@router.post("/{token_name}/revoke")
async def revoke_token(
    token_name: NameInPath, context: ContextDependency, _form: ActionDependency
) -> Response:
    """Revoke a token."""
    await tokens.revoke(context, token_name)
    return RedirectResponse(f"{FOLDER}/tokens", status_code=303)
