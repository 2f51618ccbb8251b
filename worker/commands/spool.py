"""``hyperfl worker fetch``, ``train`` and ``send``: rounds where training has no network."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shared.terminal.logs import configure_logging
from worker.commands.configuration import ConfigOption, JsonOption, failures, load
from worker.commands.signals import run_until_signal

if TYPE_CHECKING:
    from worker.spool.outcomes import Outcome

SpoolOption = Annotated[
    Path,
    typer.Option("--spool", help="The folder that fetch, train and send share."),
]


def fetch(
    spool: SpoolOption,
    config: ConfigOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Ask until there is work or the federation has ended.")
    ] = False,
    queue_seconds: Annotated[
        float,
        typer.Option(min=0, help="How long a job may wait in the queue and train, for a warning."),
    ] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Bring the clients' tasks, with their weights, into a folder for `worker train`.

    For a cluster whose compute nodes have no network: run this on a node that
    has, then `worker train` as a job, then `worker send`. It asks once, and
    enrols clients that are not yet.

    Example: hyperfl worker fetch --spool spool --config worker.toml
    """
    with failures():
        from worker.spool import fetching  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging(settings.log_level, settings.log_format)
        _say(
            asyncio.run(
                fetching.fetch(loaded, settings, spool, wait=wait, queue_seconds=queue_seconds)
            ),
            as_json,
        )


def train(spool: SpoolOption, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Train what `worker fetch` brought into a folder; use no network.

    Each update is saved in its client's private state, from where `worker send`
    sends it. SIGTERM stops after the current step, and the next start begins the
    round again.

    Example: hyperfl worker train --spool spool --config worker.toml
    """
    with failures():
        from worker.rounds.progress import view_for  # noqa: PLC0415 - torch
        from worker.spool import training  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging(settings.log_level, settings.log_format)
        stop = threading.Event()
        view = view_for(Console(stderr=True), settings.log_format)
        working = training.train(loaded, settings, spool, stop, view=view)
        outcomes = asyncio.run(run_until_signal(working, stop))
        if not outcomes and not as_json:
            typer.echo(f"{spool} has nothing to train")
        _say(outcomes, as_json)


def send(
    spool: SpoolOption,
    config: ConfigOption = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Keep leases alive and send until every task is answered."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send what `worker train` has made, and keep the leases of the other tasks alive.

    An update is sent as it was saved until the coordinator answers. A task whose
    round is over is dropped, which ends a training that is still at it.

    Example: hyperfl worker send --spool spool --config worker.toml
    """
    with failures():
        from worker.spool import sending  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging(settings.log_level, settings.log_format)
        _say(asyncio.run(sending.send(loaded, settings, spool, wait=wait)), as_json)


def _say(outcomes: Sequence[Outcome], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in outcomes]))
        return
    for one in outcomes:
        typer.echo(str(one))
