"""/v1/tokens and /v1/audit: who may do what, and who did."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, status

from coordinator import audit, tokens
from coordinator.routes.dependencies import AdminDependency, ContextDependency, NameInPath
from shared.schema import AuditEvent, TokenReply, TokenRequest, TokenView

router = APIRouter(prefix="/v1", tags=["access"])


@router.post("/tokens", status_code=status.HTTP_201_CREATED)
async def create_token(
    body: TokenRequest, request: Request, context: ContextDependency, _admin: AdminDependency
) -> TokenReply:
    """Create a token for an administrator or for reading alone, shown only here."""
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


@router.get("/audit")
async def list_audit_events(
    context: ContextDependency,
    _admin: AdminDependency,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=audit.MAX_LISTED)] = 100,
) -> list[AuditEvent]:
    """List changes and refusals, oldest first, from the event after ``after`` on."""
    return await audit.list_events(context, after, limit)
