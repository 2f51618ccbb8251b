"""/v1/federations/{name}/clients and /v1/enrolments: who takes part."""

from __future__ import annotations

from fastapi import APIRouter, status

from coordinator import clients
from coordinator.routes.dependencies import AdminDependency, ContextDependency
from shared.schema import (
    ClientInvitation,
    ClientView,
    EnrolmentReply,
    EnrolmentRequest,
    InvitationReply,
)

router = APIRouter(prefix="/v1", tags=["clients"])


@router.post("/federations/{federation_name}/clients", status_code=status.HTTP_201_CREATED)
async def invite_client(
    federation_name: str,
    invitation: ClientInvitation,
    context: ContextDependency,
    _admin: AdminDependency,
) -> InvitationReply:
    """Invite a client: answers a one-time enrolment token, shown only here."""
    return await clients.invite(context, federation_name, invitation.name)


@router.get("/federations/{federation_name}/clients")
async def list_clients(
    federation_name: str, context: ContextDependency, _admin: AdminDependency
) -> list[ClientView]:
    """List a federation's clients."""
    return await clients.list_all(context, federation_name)


@router.delete(
    "/federations/{federation_name}/clients/{client_name}",
    status_code=status.HTTP_204_NO_CONTENT,
)
async def revoke_client(
    federation_name: str,
    client_name: str,
    context: ContextDependency,
    _admin: AdminDependency,
) -> None:
    """Revoke a client: its tokens end at once."""
    await clients.revoke(context, federation_name, client_name)


@router.post("/enrolments", status_code=status.HTTP_201_CREATED)
async def enrol_client(request: EnrolmentRequest, context: ContextDependency) -> EnrolmentReply:
    """Exchange a one-time enrolment token for the client's credential, shown only here."""
    return await clients.enrol(context, request.enrolment_token)
