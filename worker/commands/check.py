"""``hyperfl worker check``: look before anything is sent."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shared.terminal.failures import INVALID_INPUT
from shared.terminal.logs import configure_logging
from shared.terminal.tables import print_table
from worker.commands.configuration import ConfigOption, JsonOption, failures, load


def check(
    config: ConfigOption = None,
    specification: Annotated[
        Path | None,
        typer.Option(help="The federation's file, where no client is enrolled yet."),
    ] = None,
    dry_run_round: Annotated[
        bool,
        typer.Option(help="Also train one round on a private state that is thrown away."),
    ] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if there are warnings.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at data, machine and coordinator before a worker runs; list all faults at once.

    It reads every image, and sends no data. It spends no enrolment token, and
    changes nothing. It exits with 2 if there is a fault, with 1 for warnings if
    --strict is given, else with 0.

    Example: hyperfl worker check --config worker.toml
    """
    with failures():
        from worker.operations import check as operation  # noqa: PLC0415 - torch
        from worker.operations.check_rows import Verdict, worst  # noqa: PLC0415

        loaded, settings = load(config)
        configure_logging("error")
        rows = asyncio.run(
            operation.check(
                loaded, settings, specification_file=specification, dry_run=dry_run_round
            )
        )
    found = worst(rows)
    if as_json:
        typer.echo(json.dumps({"verdict": found, "rows": [asdict(row) for row in rows]}))
    else:
        print_table([asdict(row) for row in rows], ("verdict", "check", "client", "detail"))
    if found is Verdict.FAULT:
        raise typer.Exit(INVALID_INPUT)
    if found is Verdict.WARNING and strict:
        raise typer.Exit(1)
