"""What handlers are given: the coordinator's context and who is asking."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.security import HTTPBearer

from coordinator.access.identity import Admin, ClientPrincipal, Principal, identify
from coordinator.context import Context
from coordinator.errors import Forbidden
from coordinator.operations.delta_chains import DeltaChains
from coordinator.operations.upload_slots import UploadSlots
from shared.federation.specification import FEDERATION_NAME
from shared.rest.state_generation import MARK, StateGeneration
from shared.validation import MAX_COUNT

NameInPath = Annotated[str, Path(pattern=FEDERATION_NAME)]
"""A federation, client or token; nothing else reaches the database."""


async def get_context(request: Request) -> Context:
    """The context that app.py built."""
    context: Context = request.app.state.context
    return context


async def get_delta_chains(request: Request) -> DeltaChains:
    """The files of deltas that this process keeps."""
    chains: DeltaChains = request.app.state.delta_chains
    return chains


async def get_upload_slots(request: Request) -> UploadSlots:
    """The slots that bound this process's uploads."""
    slots: UploadSlots = request.app.state.upload_slots
    return slots


ContextDependency = Annotated[Context, Depends(get_context)]
DeltaChainsDependency = Annotated[DeltaChains, Depends(get_delta_chains)]
UploadSlotsDependency = Annotated[UploadSlots, Depends(get_upload_slots)]


async def get_generation(
    generation: Annotated[int | None, Query(ge=0, le=MAX_COUNT)] = None,
    mark: Annotated[str, Query(pattern=MARK)] = "",
) -> StateGeneration | None:
    """How far the client's private state has come; None where its worker does not say."""
    return None if generation is None else StateGeneration(generation=generation, mark=mark)


ToldGeneration = Annotated[StateGeneration | None, Depends(get_generation)]


BEARER = HTTPBearer(auto_error=False, description="An administrator's or a client's token.")
"""Declares in the interface's document what :func:`identify` looks at."""


async def get_principal(
    request: Request,
    context: ContextDependency,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
    _declared: Annotated[object, Security(BEARER)] = None,
) -> Principal:
    """Who sends this request, asked of the database once; Unauthenticated otherwise."""
    known: Principal | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    principal = await identify(context, authorization)
    request.state.principal = principal
    request.state.actor = _actor(principal)
    if hasattr(request.state, "token_is_valid"):
        request.state.token_is_valid()
    return principal


def _actor(principal: Principal) -> str:
    if isinstance(principal, Admin):
        return f"{'admin' if principal.may_write else 'read-only'} {principal.name}"
    return f"client {principal.federation.name}/{principal.client.name}"


async def require_admin(
    request: Request, principal: Annotated[Principal, Depends(get_principal)]
) -> Admin:
    """Lets administrators pass, and readers where nothing can change."""
    if not isinstance(principal, Admin):
        raise Forbidden("this needs an admin token")
    if not principal.may_write and request.method != "GET":
        raise Forbidden("this token is read-only")
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
    """Lets administrators and clients of the federation in the path pass, readers not."""
    if isinstance(principal, ClientPrincipal):
        principal.require_federation(federation_name)
    elif not principal.may_write:
        raise Forbidden("weights need an admin token or a client's credential")
    return principal


async def require_viewer(
    federation_name: str, principal: Annotated[Principal, Depends(get_principal)]
) -> Principal:
    """Lets everyone pass but clients of other federations."""
    if isinstance(principal, ClientPrincipal):
        principal.require_federation(federation_name)
    return principal


AdminDependency = Annotated[Admin, Depends(require_admin)]
ClientDependency = Annotated[ClientPrincipal, Depends(require_client)]
ViewerDependency = Annotated[Principal, Depends(require_viewer)]
MemberDependency = Annotated[Principal, Depends(require_member)]
