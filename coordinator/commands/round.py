"""``hyperfl round``: list, show and watch the rounds of a federation."""

from __future__ import annotations

import time
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
from shared.rest.schema import FederationState, FederationView, RoundPhase, RoundSummary, RoundView
from shared.terminal.tables import print_json, print_table

_POLL_SECONDS = 0.5
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
        found = list(_all_rounds(connection, federation))
    if as_json:
        print_json(found)
    else:
        print_table([_line(row) for row in found], _LIST_COLUMNS)


def _all_rounds(connection: Connection, federation: str) -> Iterator[dict[str, Any]]:
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
    """Print each round as it closes, until the federation stops.

    The federation stops when it is finished, failed or paused; the exit code is 0
    only if it is finished. With --json the command prints one line for each
    closed round, and a last line with the federation.

    Example: hyperfl round watch hospitals
    """
    with connect(url, admin_token_file) as connection:
        ended = _watch(connection, federation, as_json)
    if as_json:
        print_json({"federation": ended})
    else:
        print_table([ended], ("name", "state", "rounds_committed", "weights_digest", "reason"))
    if ended["state"] != FederationState.FINISHED:
        raise typer.Exit(1)


def _watch(connection: Connection, federation: str, as_json: bool) -> dict[str, Any]:
    """Prints closed rounds; returns the federation once it stands still."""
    still = (FederationState.FINISHED, FederationState.FAILED, FederationState.PAUSED)
    first = 1
    while True:
        # Asked before the rounds, so that none that closed meanwhile is missed at the end.
        found: dict[str, Any] = connection.get(f"/v1/federations/{federation}", FederationView)
        for row in connection.get(
            f"/v1/federations/{federation}/rounds", list[RoundSummary], first=first
        ):
            if row["phase"] not in (RoundPhase.COMMITTED, RoundPhase.FAILED):
                break
            if as_json:
                print_json({"round": row})
            else:
                print_table([_line(row)], _LIST_COLUMNS)
            first = row["number"] + 1
        if found["state"] in still:
            return found
        time.sleep(_POLL_SECONDS)
