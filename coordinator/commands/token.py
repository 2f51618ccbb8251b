"""``hyperfl token``: create, list and revoke tokens of administrators and readers."""

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
from shared.rest.schema import TokenReply, TokenScope, TokenView
from shared.terminal.tables import print_json, print_rows, print_table

_DAY_SECONDS = 86400.0

token = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Create, list and revoke tokens of administrators and readers.",
)


@token.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the token in lists and audit events.")],
    scope: Annotated[TokenScope, typer.Option(help="What the token allows.")],
    valid_days: Annotated[
        float | None, typer.Option(help="Days until the token expires; by default it never does.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a token and print it; it is shown only here.

    Example: hyperfl token create --scope read-only dashboard
    """
    valid_seconds = None if valid_days is None else valid_days * _DAY_SECONDS
    body = {"name": name, "scope": scope.value, "valid_seconds": valid_seconds}
    with connect(url, admin_token_file) as connection:
        created = connection.post("/v1/tokens", TokenReply, body)
    if as_json:
        print_json(created)
    else:
        print_table([created], ("name", "scope", "token", "expires_at"))


@token.command("list")
def list_all(
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens by name; the name of the admin token file's token begins with file-.

    Example: hyperfl token list
    """
    with connect(url, admin_token_file) as connection:
        found = connection.get("/v1/tokens", list[TokenView])
    print_rows(found, ("name", "scope", "created_at", "expires_at"), as_json=as_json)


@token.command()
def revoke(
    names: Annotated[list[str], typer.Argument(help="One or more names of tokens.")],
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke tokens: they stop working at once.

    If you revoke the token of the admin token file, delete the file too: a
    coordinator that starts with the file makes its token valid again.

    Example: hyperfl token revoke dashboard
    """
    with connect(url, admin_token_file) as connection:
        for name in names:
            connection.delete(f"/v1/tokens/{name}")
    if as_json:
        print_json({"revoked": names})
