"""/v1/federations/{name}/clients and /v1/enrolments: who takes part."""

from __future__ import annotations

from fastapi import APIRouter, Request, status

from coordinator.operations import clients
from coordinator.routes.dependencies import (
    AdminDependency,
    ClientDependency,
    ContextDependency,
    NameInPath,
)
from coordinator.routes.json_route import JsonRoute
from shared.rest.schema import (
    ClientInvitation,
    ClientView,
    EnrolmentReply,
    EnrolmentRequest,
    InvitationReply,
)

router = APIRouter(prefix="/v1", tags=["clients"], route_class=JsonRoute)


@router.post("/federations/{federation_name}/clients", status_code=status.HTTP_201_CREATED)
async def invite_client(
    federation_name: NameInPath,
    invitation: ClientInvitation,
    request: Request,
    context: ContextDependency,
    _admin: AdminDependency,
) -> InvitationReply:
    """Invite a client; the answer has a one-time enrolment token, shown only here."""
    request.state.subject = f"federation_name={federation_name} client_name={invitation.name}"
    return await clients.invite(context, federation_name, invitation.name)


@router.get("/federations/{federation_name}/clients")
async def list_clients(
    federation_name: NameInPath, context: ContextDependency, _admin: AdminDependency
) -> list[ClientView]:
    """List a federation's clients."""
    return await clients.list_all(context, federation_name)


@router.delete(
    "/federations/{federation_name}/clients/{client_name}",
    status_code=status.HTTP_204_NO_CONTENT,
)
async def revoke_client(
    federation_name: NameInPath,
    client_name: NameInPath,
    context: ContextDependency,
    _admin: AdminDependency,
) -> None:
    """Revoke a client: its tokens stop working at once."""
    await clients.revoke(context, federation_name, client_name)


@router.post("/federations/{federation_name}/clients/{client_name}/rotate")
async def rotate_credential(
    federation_name: NameInPath,  # noqa: ARG001 (ClientDependency looks at it)
    client_name: NameInPath,
    context: ContextDependency,
    client: ClientDependency,
) -> EnrolmentReply:
    """Give the calling client a new credential; first using it ends the old one."""
    client.require_client(client_name)
    return await clients.rotate(context, client)


@router.post("/enrolments", status_code=status.HTTP_201_CREATED)
async def enrol_client(
    body: EnrolmentRequest, request: Request, context: ContextDependency
) -> EnrolmentReply:
    """Exchange a one-time enrolment token for the client's credential, shown only here."""
    enrolled = await clients.enrol(context, body.enrolment_token, body.federation, body.client)
    request.state.actor = f"client {enrolled.federation}/{enrolled.client}"
    return enrolled
