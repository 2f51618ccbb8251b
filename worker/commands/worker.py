"""``hyperfl worker``: train and evaluate where the data lies; specify a federation.

Torch is imported by the commands that need it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.terminal.logs import configure_logging
from shared.tracing.spans import recorded
from worker.commands.accept_backup import accept_backup
from worker.commands.check import check
from worker.commands.configuration import (
    ConfigOption,
    JsonOption,
    UntrainedOption,
    WhichOption,
    failures,
    load,
)
from worker.commands.init import init
from worker.commands.keys import keys
from worker.commands.peers import peers
from worker.commands.policy import policy
from worker.commands.predict import predict
from worker.commands.signals import run_until_signal
from worker.commands.specify import specify
from worker.commands.spool import fetch, send, train
from worker.commands.status import status

worker = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train and evaluate where the data lies."
)


@worker.command()
def run(config: ConfigOption = None) -> None:
    """Host a TOML file's clients: poll, train and upload until the federation ends.

    SIGTERM stops the worker after the current step; the next start goes on from
    what was saved.

    Example: hyperfl worker run --config worker.toml
    """
    with failures():
        from worker.page.server import served_page  # noqa: PLC0415 - torch
        from worker.rounds import loop  # noqa: PLC0415 - torch
        from worker.rounds.progress import view_for  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging(settings.log_level, settings.log_format)
        stop = threading.Event()
        view = view_for(Console(stderr=True), settings.log_format)
        with recorded(settings.traces, "hyperfl-worker"), served_page(loaded, settings):
            asyncio.run(run_until_signal(loop.run(loaded, settings, stop, view=view), stop))


@worker.command()
def evaluate(
    config: ConfigOption = None,
    which: WhichOption = "final",
    untrained: UntrainedOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate the newest weights, or --which, on each client's own test data; upload nothing.

    Each client keeps its private tensors, such as its embedding and head. While
    they are as at the start, the command refuses to measure them.

    Example: hyperfl worker evaluate --config worker.toml
    """
    with failures():
        from worker.operations.evaluation import evaluate_clients  # noqa: PLC0415 - torch
        from worker.site.versions import parse_which  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        chosen = parse_which(which)
        rows = asyncio.run(evaluate_clients(loaded, settings, which=chosen, untrained=untrained))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    _print_clients(rows, accuracy="accuracy", loss="loss")


@worker.command()
def personalize(
    config: ConfigOption = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over each client's training examples.")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Fit each client's own model to the newest weights; upload nothing.

    This is for clients that joined late, even after the federation's end, or that
    never took part.

    hyperfl, hyperfl-lpm and hyperfl-plus fit the embedding and the head; fedpac,
    centaur and ppsgd fit the head. A method that shares all that it trains, such as
    fedavg, fine-tunes a copy of the model. The copy is discarded when the client takes
    part in a round again.

    The shared weights stay as they are. The command replaces each client's
    private state. It refuses to start while a client has an update that the
    coordinator has not answered yet. If a client's training diverges, its state
    stays as it was; the command goes on with the other clients and then exits
    with 1.

    Example: hyperfl worker personalize --config worker.toml --epochs 5
    """
    with failures():
        from worker.operations.personalization import personalize_clients  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        stop = threading.Event()
        rows = asyncio.run(
            run_until_signal(personalize_clients(loaded, settings, epochs, stop), stop)
        )
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        _print_clients(rows, before="accuracy_before", after="accuracy_after")
    if len(rows) < len(loaded.clients):
        raise typer.Exit(1)


@worker.command()
def rotate(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Replace the credential of each hosted client; the old ones stop working.

    Stop the worker first. You can repeat an interrupted command: each client
    keeps a valid credential throughout.

    Example: hyperfl worker rotate --config worker.toml
    """
    with failures():
        from worker.operations.rotation import rotate_credentials  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        names = asyncio.run(rotate_credentials(loaded, settings))
    if as_json:
        typer.echo(json.dumps({"rotated": names}))
        return
    for name in names:
        typer.echo(f"{name}: new credential saved, the old one no longer works")


@worker.command()
def export(
    client: Annotated[str, typer.Option(help="Name of a client in the TOML file.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    config: ConfigOption = None,
    file_format: Annotated[
        str, typer.Option("--format", help="state-dict, torchscript, pt2 or onnx.")
    ] = "pt2",
    which: WhichOption = "final",
    untrained: UntrainedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a client's personalised model to a file that runs without this project.

    The model takes float32 images (B, C, H, W) at its own size with pixels 0..1,
    and returns logits. It normalises the images itself, except as a state-dict
    (safetensors: module.*, head.*): there the normalisation is in the metadata.
    The metadata entry `hyperfl-model` of each file describes all this.

    The command prints Python code that loads the file. The code needs torch, or
    for ONNX onnxruntime. For a state-dict it includes the classes of a built-in
    network or a backbone; a backbone also needs timm or torchvision. A model of
    your own is imported from your own code.

    A client keeps its newest and its best private tensors alone, so --which VERSION
    is for methods that have none.

    PyTorch has deprecated TorchScript; use pt2 (torch.export) instead.

    Example: hyperfl worker export --config worker.toml --client site-a --output site-a.pt2
    """
    with failures():
        from worker.export.client_model import export_client  # noqa: PLC0415 - torch
        from worker.site.versions import parse_which  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging("warning", settings.log_format)
        description, code = asyncio.run(
            export_client(
                loaded,
                settings,
                client=client,
                which=parse_which(which),
                file_format=file_format,
                output=output,
                untrained=untrained,
            )
        )
    if as_json:
        said = description.model_dump(mode="json")
        typer.echo(json.dumps({"file": str(output)} | said | {"loading_code": code}))
    else:
        typer.echo(
            f"{output}: model of {client} with weights version {description.weights_version}, "
            f"takes {description.input}\n\n{code}"
        )


worker.command()(init)
worker.command()(fetch)
worker.command()(train)
worker.command()(send)
worker.command()(check)
worker.command()(accept_backup)
worker.command()(predict)
worker.command()(specify)
worker.command()(status)
worker.add_typer(keys, name="keys")
worker.add_typer(peers, name="peers")
worker.add_typer(policy, name="policy")


def _print_clients(rows: list[dict[str, Any]], **measures: str) -> None:
    """One line for each client; ``measures`` are columns, and the measure that each shows."""
    table = Table("client", "weights", "examples", *measures, box=None, pad_edge=False)
    for row in rows:
        values = (
            f"{100 * row[name]:.2f} %" if name.startswith("accuracy") else f"{row[name]:.4f}"
            for name in measures.values()
        )
        table.add_row(
            Text(row["client"]), str(row["weights_version"]), str(row["num_test_examples"]), *values
        )
    Console(soft_wrap=True).print(table)
