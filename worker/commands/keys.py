"""``hyperfl worker keys``: a site's own keys for secure sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shared.secure_sum.cards import Card
from shared.terminal.logs import configure_logging
from worker.commands.configuration import ConfigOption, JsonOption, failures, load
from worker.files import write_atomically

keys = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Show, export and renew the site's own keys for secure sums.",
)

ClientOption = Annotated[str, typer.Option(help="Name of a client in the TOML file.")]
_READABLE_BY_ALL = 0o644


@keys.command()
def show(
    client: Annotated[
        str | None, typer.Option(help="Only this client of the TOML file; the default is all.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the fingerprint of each hosted client; make keys where there are none.

    Read the fingerprint to the people of another site, or send it by a way that
    the coordinator cannot change. They compare it with `worker peers verify`.

    Example: hyperfl worker keys show --config worker.toml
    """
    with failures():
        from worker.operations.keys import own_cards  # noqa: PLC0415 - the worker's packages

        configure_logging("warning")
        loaded, _ = load(config)
        cards = own_cards(loaded if client is None else loaded.only(client))
    if as_json:
        typer.echo(json.dumps([_row(card) for card in cards]))
        return
    for card in cards:
        typer.echo(f"{card.client}: {card.fingerprint}")


@keys.command()
def export(
    client: ClientOption,
    output: Annotated[Path, typer.Option(help="File to write.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a client's card: its public keys, for `worker peers trust` at another site.

    The card has no secret. Bring it to the other site by a way that the
    coordinator cannot change.

    Example: hyperfl worker keys export --client site-a --output site-a.card.json
    """
    with failures():
        from worker.operations.keys import own_cards  # noqa: PLC0415 - the worker's packages

        configure_logging("warning")
        loaded, _ = load(config)
        (card,) = own_cards(loaded.only(client))
        content = card.model_dump_json(indent=2).encode() + b"\n"
        write_atomically(output, content, _READABLE_BY_ALL)
    if as_json:
        typer.echo(json.dumps({"file": str(output)} | _row(card)))
    else:
        typer.echo(f"{output}: card of {card.client}, fingerprint {card.fingerprint}")


@keys.command()
def renew(client: ClientOption, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Replace a client's keys; every other site has to trust the new fingerprint.

    Do so when the keys may be known to others, or after the client's state_dir
    came from a backup. Stop the worker first. You can repeat an interrupted
    command.

    Example: hyperfl worker keys renew --client site-a
    """
    with failures():
        from worker.operations.keys import renew_keys  # noqa: PLC0415 - the worker's packages

        configure_logging("warning")
        loaded, _ = load(config)
        card = renew_keys(loaded, client)
    if as_json:
        typer.echo(json.dumps(_row(card)))
        return
    typer.echo(f"{card.client}: new keys, fingerprint {card.fingerprint}")
    typer.echo(
        "Other sites refuse this client until they trust the new fingerprint: give it to their "
        "people, who run hyperfl worker peers verify or trust."
    )


def _row(card: Card) -> dict[str, str]:
    return {"client": card.client, "federation": card.federation, "fingerprint": card.fingerprint}
