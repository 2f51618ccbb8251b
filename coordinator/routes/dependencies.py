"""What handlers are given: the coordinator's context and who is asking."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from coordinator.auth import Admin, ClientPrincipal, Principal, identify
from coordinator.context import Context
from coordinator.errors import Forbidden
from shared.specification import CLIENT_NAME, FEDERATION_NAME

FEDERATION_PATTERN = FEDERATION_NAME
CLIENT_PATTERN = CLIENT_NAME


def get_context(request: Request) -> Context:
    """The context that app.py built."""
    context: Context = request.app.state.context
    return context


ContextDependency = Annotated[Context, Depends(get_context)]


async def get_principal(
    context: ContextDependency, authorization: Annotated[str | None, Header()] = None
) -> Principal:
    """Who sends this request; Unauthenticated otherwise."""
    return await identify(context, authorization)


async def require_admin(principal: Annotated[Principal, Depends(get_principal)]) -> Admin:
    """Lets administrators pass."""
    if not isinstance(principal, Admin):
        raise Forbidden("this needs an admin token")
    return principal


async def require_client(
    federation_name: str, principal: Annotated[Principal, Depends(get_principal)]
) -> ClientPrincipal:
    """Lets clients of the federation in the path pass."""
    if not isinstance(principal, ClientPrincipal):
        raise Forbidden("this needs a client's credential")
    principal.require_federation(federation_name)
    return principal


async def require_member(
    federation_name: str, principal: Annotated[Principal, Depends(get_principal)]
) -> Principal:
    """Lets administrators and clients of the federation in the path pass."""
    if isinstance(principal, ClientPrincipal):
        principal.require_federation(federation_name)
    return principal


AdminDependency = Annotated[Admin, Depends(require_admin)]
ClientDependency = Annotated[ClientPrincipal, Depends(require_client)]
MemberDependency = Annotated[Principal, Depends(require_member)]
