"""``hyperfl round``: list, show and watch the rounds of a federation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from coordinator.commands.connection import (
    DEFAULT_URL,
    Connection,
    JsonOption,
    TokenFileOption,
    UrlOption,
    connect,
)
from coordinator.commands.watching import Event, Watch
from shared.rest.schema import FederationState, RoundSummary, RoundView
from shared.terminal.tables import RowByRow, print_json, print_line, print_table

_LIST_COLUMNS = (
    "number",
    "kind",
    "phase",
    "cohort_size",
    "updates_received",
    "not_heard_from",
    "bytes_up",
    "bytes_down",
    "accuracy_before",
    "accuracy_after",
    "accuracy",
    "reason",
)

round_ = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, show and watch a federation's rounds."
)

FederationArgument = Annotated[str, typer.Argument(help="The federation's name.")]


@round_.command("list")
def list_all(
    federation: FederationArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a federation's rounds.

    Example: hyperfl round list hospitals
    """
    with connect(url, admin_token_file) as connection:
        found = list(all_rounds(connection, federation))
    if as_json:
        print_json(found)
    else:
        print_table([_line(row) for row in found], _LIST_COLUMNS)


def all_rounds(connection: Connection, federation: str) -> Iterator[dict[str, Any]]:
    """Every round of a federation, in order."""
    first = 1
    while page := connection.get(
        f"/v1/federations/{federation}/rounds", list[RoundSummary], first=first
    ):
        yield from page
        first = page[-1]["number"] + 1


def _line(found: dict[str, Any]) -> dict[str, Any]:
    """A round as a line of a table."""
    names = list(found["not_heard_from"])
    if more := found["cohort_size"] - found["updates_received"] - len(names):
        names.append(f"{more} more")
    return {**found, **found["metrics"], "not_heard_from": ", ".join(names)}


@round_.command()
def show(
    federation: FederationArgument,
    number: Annotated[int, typer.Argument(help="The round's number.")],
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one round and every client's part in it.

    Example: hyperfl round show hospitals 3
    """
    with connect(url, admin_token_file) as connection:
        found = connection.get(f"/v1/federations/{federation}/rounds/{number}", RoundView)
    if as_json:
        print_json(found)
        return
    print_table([_line(found)], _LIST_COLUMNS)
    print_table(
        [row | row["metrics"] for row in found["assignments"]],
        (
            "client",
            "state",
            "attempt",
            "num_examples",
            "accuracy_before",
            "accuracy_after",
            "accuracy",
            "bytes_up",
            "bytes_down",
            "reason_kind",
            "reason",
        ),
    )


@round_.command()
def watch(
    federation: FederationArgument,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print rounds as they close and changes of state, until the federation has ended.

    A pause and a restart of the coordinator are waited out. A round that waits for
    the same clients for ten seconds says for whom. The exit code is 0 only if the
    federation is finished. With --json the command prints one object a line, whose
    only member is round, federation, waiting or silent. The last is a federation.

    Example: hyperfl round watch hospitals
    """
    say = print_json if as_json else _Lines().say
    with connect(url, admin_token_file) as connection:
        ended = Watch(connection, federation, say).run()
    if as_json:
        print_json({"federation": ended})
    else:
        print_table([ended], ("name", "state", "rounds_committed", "weights_digest", "reason"))
    if ended["state"] != FederationState.FINISHED:
        raise typer.Exit(1)


class _Lines:
    """Events as lines for people, under one header."""

    def __init__(self) -> None:
        self._rows = RowByRow(_LIST_COLUMNS)

    def say(self, event: Event) -> None:
        ((kind, what),) = event.items()
        match kind:
            case "round":
                self._rows.print(_line(what))
            case "federation":
                reason = f": {what['reason']}" if what["reason"] else ""
                print_line(f"{what['name']} is {what['state']}{reason}")
            case "waiting":
                line = _line(what)
                print_line(f"round {what['number']} waits for {line['not_heard_from']}")
            case _ if what is None:
                print_line("the coordinator answers again")
            case _:
                print_line(f"{what}; trying again")
