"""/page/federations/{name}/clients: who takes part, and invitations."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from coordinator.context import Context
from coordinator.errors import NameTaken, UnknownThing
from coordinator.operations import client_pages, clients, federations
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import (
    ActionDependency,
    AdministratorDependency,
    VisitorDependency,
    invalid_form,
)
from coordinator.routes.dependencies import ContextDependency, NameInPath
from coordinator.serving.page_requests import FOLDER, is_over_tls
from shared.federation.specification import CLIENT_NAME
from shared.rest.schema import FederationState
from shared.validation import MAX_COUNT

_ROWS = 50

router = APIRouter(
    prefix=f"{FOLDER}/federations/{{federation_name}}/clients",
    route_class=PageRoute,
    include_in_schema=False,
)


@router.get("")
async def list_clients(
    federation_name: NameInPath,
    request: Request,
    context: ContextDependency,
    _visitor: VisitorDependency,
    page: Annotated[int, Query(ge=1, le=MAX_COUNT // _ROWS)] = 1,
) -> Response:
    """List a federation's clients."""
    federation = await federations.show(context, federation_name)
    return render(
        request,
        "clients.html",
        federation=federation,
        may_invite=federation.state != FederationState.FAILED,
        shown=await client_pages.show(context, federation_name, page, _ROWS),
        page=page,
        rows=_ROWS,
    )


@router.post("")
async def invite_client(
    federation_name: NameInPath,
    request: Request,
    context: ContextDependency,
    form: ActionDependency,
) -> Response:
    """Invite a client that is new, and show its token, this once."""
    name = form.get("name", "").strip()
    if not re.fullmatch(CLIENT_NAME, name):
        raise invalid_form(
            "name",
            "lower-case letters, digits, dots, dashes and underscores, at most 63, with a letter "
            "or a digit first",
        )
    with contextlib.suppress(UnknownThing):
        await clients.show(context, federation_name, name)
        # To invite it again would end its credential, which the form has not said.
        raise NameTaken(f"{name} is a client already; its line has what replaces its credential")
    return await _invite(federation_name, name, request, context)


@router.get("/{client_name}/{action}")
async def confirm_action(
    federation_name: NameInPath,
    client_name: NameInPath,
    action: str,
    request: Request,
    context: ContextDependency,
    _administrator: AdministratorDependency,
) -> Response:
    """Say what an action does to a client, and ask whether it is meant."""
    federation = await federations.show(context, federation_name)
    client = await clients.show(context, federation_name, client_name)
    if action not in _ACTIONS:
        raise invalid_form("action", f"{' or '.join(_ACTIONS)}")
    return render(
        request, "client_action.html", federation=federation, client=client, action=action
    )


@router.post("/{client_name}/rotate")
async def invite_again(
    federation_name: NameInPath,
    client_name: NameInPath,
    request: Request,
    context: ContextDependency,
    _form: ActionDependency,
) -> Response:
    """End a client's credential, and show the token for a new one, this once."""
    await clients.show(context, federation_name, client_name)
    return await _invite(federation_name, client_name, request, context)


@router.post("/{client_name}/revoke")
async def revoke_client(
    federation_name: NameInPath,
    client_name: NameInPath,
    context: ContextDependency,
    _form: ActionDependency,
) -> Response:
    """Shut a client out."""
    await clients.revoke(context, federation_name, client_name)
    return RedirectResponse(f"{FOLDER}/federations/{federation_name}/clients", status_code=303)


_ACTIONS = ("rotate", "revoke")


async def _invite(
    federation_name: str, client_name: str, request: Request, context: Context
) -> Response:
    request.state.subject = f"federation_name={federation_name} client_name={client_name}"
    invitation = await clients.invite(context, federation_name, client_name)
    return render(
        request,
        "invitation.html",
        federation=await federations.show(context, federation_name),
        invitation=invitation,
        worker_toml=_worker_toml(request, context, federation_name, client_name),
    )


def _worker_toml(request: Request, context: Context, federation_name: str, client_name: str) -> str:
    """A site's file, but for where its data lie. JSON's strings are TOML's, too."""
    scheme = "https" if is_over_tls(request.scope, context.settings) else "http"
    url = f"{scheme}://{request.url.netloc}"
    return "\n".join(
        (
            f"coordinator_url = {json.dumps(url)}",
            f"federation = {json.dumps(federation_name)}",
            "",
            "[[clients]]",
            f"name = {json.dumps(client_name)}",
            f"state_dir = {json.dumps('state/' + client_name)}",
            f"enrolment_token_file = {json.dumps(client_name + '.token')}",
            "",
            "[clients.data]",
            'dataset = "image-folder"',
            'data_dir = "/data/images"',
            "",
        )
    )
