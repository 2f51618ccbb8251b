"""``hyperfl audit``: list and export who did or saw what, and what was refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from coordinator.commands.connection import (
    DEFAULT_URL,
    Connection,
    JsonOption,
    TokenFileOption,
    UrlOption,
    connect,
)
from shared.rest.schema import AuditEvent
from shared.terminal.failures import fail, one_line_errors
from shared.terminal.tables import print_json, print_rows

_PAGE = 1000

audit = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="List and export who did or saw what, and what was refused.",
)


@audit.callback()
def _group() -> None:
    """List and export who did or saw what, and what was refused."""


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
        found = connection.get("/v1/audit", list[AuditEvent], after=after, limit=limit)
    print_rows(
        found, ("id", "at", "actor", "action", "subject", "address", "outcome"), as_json=as_json
    )


@audit.command("export")
def export_events(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    after: Annotated[int, typer.Option(min=0, help="Export only events with a higher id.")] = 0,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write all events to a file, one JSON object a line, oldest first.

    The coordinator deletes events after HYPERFL_AUDIT_DAYS. To go on where an
    export ended, give its last id as --after.

    Example: hyperfl audit export audit-2026-11.jsonl --after 1200
    """
    last, count = after, 0
    with one_line_errors(), connect(url, admin_token_file) as connection, _new_file(file) as lines:
        for event in _all_events(connection, after):
            lines.write(json.dumps(event) + "\n")
            last, count = event["id"], count + 1
    if as_json:
        print_json({"file": str(file), "events": count, "last_id": last})
    else:
        typer.echo(f"{file}: {count} events, the last has id {last}")


@contextmanager
def _new_file(file: Path) -> Iterator[TextIO]:
    """A file that did not exist, and is gone again if it cannot be written to its end."""
    try:
        lines = file.open("x")
    except FileExistsError:
        fail(f"{file} exists")
    try:
        with lines:
            yield lines
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _all_events(connection: Connection, after: int) -> Iterator[dict[str, Any]]:
    while page := connection.get("/v1/audit", list[AuditEvent], after=after, limit=_PAGE):
        yield from page
        after = page[-1]["id"]
