"""``hyperfl client``: enroll, list and revoke the clients of a federation."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.commands.connection import (
    DEFAULT_URL,
    JsonOption,
    TokenFileOption,
    UrlOption,
    connect,
)
from shared.rest.schema import ClientView, InvitationReply
from shared.terminal.tables import print_rows

_LIST_COLUMNS = (
    "name",
    "state",
    "enrolled_at",
    "last_seen_at",
    "updates_recorded",
    "worker_version",
    "device",
)

client = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Enroll, list and revoke a federation's clients.",
)

FederationArgument = Annotated[str, typer.Argument(help="The federation's name.")]


@client.command()
def enroll(
    federation: FederationArgument,
    names: Annotated[list[str], typer.Argument(help="One or more names of clients.")],
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Invite clients and print a one-time enrolment token for each, shown only here.

    Example: hyperfl client enroll hospitals site-a site-b
    """
    with connect(url, admin_token_file) as connection:
        invited = [
            connection.post(
                f"/v1/federations/{federation}/clients", InvitationReply, {"name": name}
            )
            for name in names
        ]
    print_rows(invited, ("name", "enrolment_token", "expires_at"), as_json=as_json)


@client.command("list")
def list_all(
    federation: FederationArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a federation's clients.

    Example: hyperfl client list hospitals
    """
    with connect(url, admin_token_file) as connection:
        found = connection.get(f"/v1/federations/{federation}/clients", list[ClientView])
    print_rows(found, _LIST_COLUMNS, as_json=as_json)


@client.command()
def revoke(
    federation: FederationArgument,
    names: Annotated[list[str], typer.Argument(help="One or more names of clients.")],
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
) -> None:
    """Revoke clients: their credentials stop working at once.

    Example: hyperfl client revoke hospitals site-b
    """
    with connect(url, admin_token_file) as connection:
        for name in names:
            connection.delete(f"/v1/federations/{federation}/clients/{name}")
