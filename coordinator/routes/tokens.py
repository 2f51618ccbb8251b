"""/v1/tokens: who may do what."""

from __future__ import annotations

from fastapi import APIRouter, Request, status

from coordinator.operations import tokens
from coordinator.routes.dependencies import AdminDependency, ContextDependency, NameInPath
from coordinator.routes.json_route import JsonRoute
from shared.rest.schema import TokenReply, TokenRequest, TokenView

router = APIRouter(prefix="/v1", tags=["access"], route_class=JsonRoute)


@router.post("/tokens", status_code=status.HTTP_201_CREATED)
async def create_token(
    body: TokenRequest, request: Request, context: ContextDependency, _admin: AdminDependency
) -> TokenReply:
    """Create a token for an administrator or a reader, shown only here."""
    request.state.subject = f"token={body.name} scope={body.scope}"
    return await tokens.create(context, body)


@router.get("/tokens")
async def list_tokens(context: ContextDependency, _admin: AdminDependency) -> list[TokenView]:
    """List the tokens of administrators and readers."""
    return await tokens.list_all(context)


@router.delete("/tokens/{token_name}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_token(
    token_name: NameInPath, context: ContextDependency, _admin: AdminDependency
) -> None:
    """Revoke a token: it ends at once."""
    await tokens.revoke(context, token_name)
