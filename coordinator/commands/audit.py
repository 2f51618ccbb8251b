"""``hyperfl audit``: list who did or saw what, and what was refused."""

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
from shared.terminal.tables import print_rows

audit = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="List who did or saw what, and what was refused.",
)


@audit.callback()
def _group() -> None:
    """List who did or saw what, and what was refused."""


@audit.command("list")
def list_events(
    after: Annotated[int, typer.Option(min=0, help="List only events with a higher id.")] = 0,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="Largest number of events to list.")
    ] = 100,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List changes, reads and refusals, oldest first.

    Example: hyperfl audit list --after 1200
    """
    with connect(url, admin_token_file) as connection:
        found = connection.get("/v1/audit", after=after, limit=limit)
    print_rows(
        found, ("id", "at", "actor", "action", "subject", "address", "outcome"), as_json=as_json
    )
