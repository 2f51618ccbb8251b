"""``hyperfl worker accept-backup``: go on from an older private state, whose newer one is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from shared.terminal.logs import configure_logging
from worker.commands.configuration import ConfigOption, JsonOption, failures, load


def accept_backup(
    client: Annotated[str, typer.Option(help="Name of a client in the TOML file.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on from a client's private state that came from a backup.

    The coordinator refuses a private state that is older than what the client has
    sent. Use this command where the newer one is lost. The client goes on with the
    embedding and head of the backup, and with a new seed. It takes no part in
    rounds that it had work in, so no round's privacy budget is spent twice.

    Stop the worker first, and every other worker of this client.

    Example: hyperfl worker accept-backup --client site-a
    """
    with failures():
        from worker.operations import restored_state  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        known = asyncio.run(restored_state.accept_backup(loaded, settings, client))
    if as_json:
        typer.echo(json.dumps({"client": client} | known.model_dump()))
        return
    typer.echo(
        f"{client}: goes on from this state after update {known.generation}, and takes no part in "
        f"rounds up to {known.last_round}"
    )
