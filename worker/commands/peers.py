"""``hyperfl worker peers``: whom of the other sites this one trusts in secure sums."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from shared.secure_sum.cards import Card
from shared.terminal.logs import configure_logging
from shared.terminal.tables import print_table
from worker.commands.configuration import ConfigOption, JsonOption, failures, load

peers = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="List and trust the other sites' keys for secure sums.",
)


@peers.command("list")
def list_all(
    client: Annotated[
        str | None,
        typer.Option(help="As this client of the TOML file sees them; the default is each."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the other clients of the federation: fingerprint, and whether it is trusted.

    A card is `trusted` if people of this site compared it, `seen` if it was only
    shown before, `new` if it is shown for the first time, and `CHANGED` if the
    client had other keys before.

    Example: hyperfl worker peers list --config worker.toml
    """
    with failures():
        from worker.operations.peers import list_peers  # noqa: PLC0415 - the worker's packages

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        found = asyncio.run(list_peers(loaded if client is None else loaded.only(client), settings))
    rows = [
        {
            "client": one.client,
            "peer": one.card.client,
            "standing": one.standing.value,
            "fingerprint": one.card.fingerprint,
        }
        for one in found
    ]
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        print_table(rows, ("client", "peer", "standing", "fingerprint"))


@peers.command()
def trust(
    file: Annotated[Path, typer.Argument(help="The card, as `worker keys export` wrote it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trust the card in FILE, which people brought from another site.

    It holds for every hosted client, in place of any card of that client before.
    Stop the worker first.

    Example: hyperfl worker peers trust site-b.card.json
    """
    with failures():
        from worker.operations.peers import trust_card  # noqa: PLC0415 - the worker's packages

        loaded, _ = load(config)
        configure_logging("warning")
        card, names = trust_card(loaded, file)
    _say(card, names, as_json)


@peers.command()
def verify(
    name: Annotated[str, typer.Option(help="The other client's name.")],
    fingerprint: Annotated[
        str, typer.Option(help="What its people say: 60 digits; spaces do not matter.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trust the card that the coordinator shows of a client, if it has this fingerprint.

    It holds for every hosted client. Ask the other site's people for the
    fingerprint by a way that the coordinator cannot change, such as a telephone
    call. Stop the worker first.

    Example: hyperfl worker peers verify --name site-b --fingerprint "01234 56789 …"
    """
    with failures():
        from worker.operations.peers import verify_peer  # noqa: PLC0415 - the worker's packages

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        card, names = asyncio.run(verify_peer(loaded, settings, name, fingerprint))
    _say(card, names, as_json)


def _say(card: Card, names: list[str], as_json: bool) -> None:
    if as_json:
        rows = [
            {"client": name, "peer": card.client, "fingerprint": card.fingerprint} for name in names
        ]
        typer.echo(json.dumps(rows))
        return
    for name in names:
        typer.echo(f"{name}: trusts {card.client}, fingerprint {card.fingerprint}")
