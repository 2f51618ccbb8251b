"""``hyperfl worker status``: what this worker's clients have done."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import typer

from shared.terminal.logs import configure_logging
from shared.terminal.tables import print_table
from worker.commands.configuration import ConfigOption, JsonOption, failures, load

_COLUMNS = ("client", "federation", "rounds", "last_round", "trusted_peers", "epsilon")


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what each client has trained, whom it trusts, and what of its budget is spent.

    `epsilon` is what all its updates together have spent at most, of the budget.
    A worker may be running meanwhile.

    Example: hyperfl worker status --config worker.toml
    """
    with failures():
        from worker.operations.status import client_statuses  # noqa: PLC0415 - the worker's packages

        loaded, settings = load(config)
        configure_logging("warning")
        found = asyncio.run(client_statuses(loaded, settings))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
        return
    rows = []
    for one in found:
        spent = "–"
        if one.epsilon_spent is not None:
            spent = f"{one.epsilon_spent:.2f} of {one.epsilon:g}"
        rows.append(asdict(one) | {"epsilon": spent})
    print_table(rows, _COLUMNS)
