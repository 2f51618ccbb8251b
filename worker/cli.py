"""``hyperfl worker``: run, evaluate, personalize, rotate, export, specify.

Torch is imported by the commands that need it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table

from shared.specification import EncodingPlan, RoundPolicy
from worker.aggregation_options import (
    HostileClientsOption,
    MaxExamplesWeightOption,
    MaxUpdateNormOption,
    OnExcessOption,
    RuleOption,
    TrimFractionOption,
    aggregation_plan,
    policy_caps,
)
from worker.failures import INVALID_INPUT, fail, one_line_errors
from worker.settings import WorkerConfig, WorkerSettings, load_config

worker = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train and evaluate where the data lies."
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="The worker's TOML file; or HYPERFL_WORKER_CONFIG."),
]


@worker.command()
def run(config: ConfigOption = None) -> None:
    """Host the clients of a TOML file: poll for rounds, train, upload, until the federation ends.

    SIGTERM ends the worker after the current step; what it had saved goes on at the next start.

    Example: hyperfl worker run --config worker.toml
    """
    with one_line_errors():
        from worker import loop  # noqa: PLC0415 - torch

        loaded, settings = _load(config)
        _configure_logging(settings.log_level)
        stop = threading.Event()
        asyncio.run(_run_until_signal(loop.run(loaded, settings, stop), stop))


async def _run_until_signal(running: Any, stop: threading.Event) -> Any:
    """The first SIGTERM or SIGINT asks to stop; the second ends the process at once."""

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return await running


@worker.command()
def evaluate(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate the newest weights with each client's own embedding and head; uploads nothing.

    Example: hyperfl worker evaluate --config worker.toml
    """
    with one_line_errors():
        from worker.evaluation import evaluate_clients  # noqa: PLC0415 - torch

        loaded, settings = _load(config)
        _configure_logging("warning")
        rows = asyncio.run(evaluate_clients(loaded, settings))
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
    """Fit each client's own model to the newest weights; uploads nothing.

    For clients that joined late, also after the federation's end, or never took part. hyperfl and
    hyperfl-lpm fit embedding and head, centaur and ppsgd the head; a method that shares all that it
    trains fine-tunes a copy, which is forgotten when the client takes part again. The weights stay
    as they are; the private state of each client is replaced, unless it has an update that was not
    answered yet. Where a client's training diverges, its state stays, and the command ends with 1
    when the others are done.

    Example: hyperfl worker personalize --config worker.toml --epochs 5
    """
    with one_line_errors():
        from worker.personalization import personalize_clients  # noqa: PLC0415 - torch

        loaded, settings = _load(config)
        _configure_logging("warning")
        stop = threading.Event()
        rows = asyncio.run(
            _run_until_signal(personalize_clients(loaded, settings, epochs, stop), stop)
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
    """Replace the credential of each hosted client by a new one; the old ones end.

    Stop the worker first. A command that was interrupted can be repeated: each client keeps a
    credential that is valid.

    Example: hyperfl worker rotate --config worker.toml
    """
    with one_line_errors():
        from worker.rotation import rotate_credentials  # noqa: PLC0415 - torch

        loaded, settings = _load(config)
        _configure_logging("warning")
        names = asyncio.run(rotate_credentials(loaded, settings))
    if as_json:
        typer.echo(json.dumps({"rotated": names}))
        return
    for name in names:
        typer.echo(f"{name}: new credential saved, the old one has ended")


@worker.command()
def export(
    client: Annotated[str, typer.Option(help="The hosted client's name.")],
    output: Annotated[Path, typer.Option(help="Write to this file.")],
    config: ConfigOption = None,
    file_format: Annotated[
        str, typer.Option("--format", help="state-dict, torchscript, pt2 or onnx.")
    ] = "pt2",
    version: Annotated[
        int | None, typer.Option(min=0, help="Version of the weights; else the newest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write a client's personalised model to a file that runs without this project.

    It takes float32 images (B, C, H, W) with pixels 0..1 at the model's size and gives logits; the
    data set's normalisation is inside. A state-dict (safetensors: module.*, head.*) has the
    normalisation in its metadata instead. The metadata `hyperfl-model` of each file says all this.
    Python code that loads the file is printed: it needs torch, and timm or torchvision for a
    state-dict of a backbone, whose classes are in it; a model of your own comes from your own code.
    TorchScript still works but is deprecated by PyTorch; pt2 (torch.export) takes its place.

    Example: hyperfl worker export --config worker.toml --client site-a --output site-a.pt2
    """
    with one_line_errors():
        from worker.export.client_model import export_client  # noqa: PLC0415 - torch

        loaded, settings = _load(config)
        _configure_logging("warning")
        description, code = asyncio.run(
            export_client(
                loaded,
                settings,
                client=client,
                version=version,
                file_format=file_format,
                output=output,
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


@worker.command()
def specify(
    name: Annotated[str, typer.Argument(help="The federation's name.")],
    model: Annotated[
        str,
        typer.Option(
            help="cnn-mnist, cnn-cifar or package.module:function; for hyperfl-lpm, *-adapter "
            "and *-fixed: vit:TIMM_NAME, resnet:TIMM_NAME, or torchvision's resnet18 to resnet152."
        ),
    ] = "cnn-mnist",
    method: Annotated[str, typer.Option(help="What is shared and how it is trained.")] = "hyperfl",
    dataset: Annotated[
        str | None, typer.Option(help="Take classes and image shape from this data set.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=2)] = None,
    image_shape: Annotated[str | None, typer.Option(help="CxHxW, such as 3x32x32.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first shared weights.")] = 2022,
    preset: Annotated[
        str | None,
        typer.Option(help="Named hyperparameters: default, paper; --set replaces them."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A hyperparameter, key=value; repeatable.")
    ] = None,
    cohort_fraction: Annotated[float | None, typer.Option(help="Share of clients a round.")] = None,
    cohort_size: Annotated[int | None, typer.Option(help="Clients a round.")] = None,
    minimum_updates: Annotated[int, typer.Option(help="Fewest updates that commit a round.")] = 1,
    deadline_seconds: Annotated[float, typer.Option(help="Longest duration of a round.")] = 3600.0,
    lease_seconds: Annotated[
        float, typer.Option(help="Work without a heartbeat for so long is offered again.")
    ] = 120.0,
    aggregation: RuleOption = "mean",
    trim_fraction: TrimFractionOption = None,
    hostile_clients: HostileClientsOption = None,
    max_update_norm: MaxUpdateNormOption = None,
    on_excess: OnExcessOption = None,
    max_examples_weight: MaxExamplesWeightOption = None,
    encoding: Annotated[str, typer.Option(help="factored or dense.")] = "factored",
    backbone_weights: Annotated[
        str | None, typer.Option(help="Of a frozen backbone: hub (default), random or FILE.")
    ] = None,
    examples_per_client: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training examples of a client; for dp-fedavg, centaur and ppsgd: agree on sample "
            "rate and noise multiplier here. Else they follow from each client's own number.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
) -> None:
    """Write a federation's specification, for `hyperfl federation create`.

    Example: hyperfl worker specify hospitals --model cnn-cifar --num-classes 4 --rounds 60
    """
    with one_line_errors():
        from worker import specify as parts  # noqa: PLC0415 - torch

        _configure_logging("warning")
        specification = parts.build_specification(
            name,
            method=method,
            model=model,
            image_shape=parts.choose_image_shape(image_shape, model, dataset),
            num_classes=parts.choose_num_classes(num_classes, dataset, data_dir),
            hyperparameters=parts.choose_hyperparameters(method, preset, settings or []),
            round_policy=RoundPolicy(
                rounds=rounds,
                cohort_fraction=cohort_fraction,
                cohort_size=cohort_size,
                minimum_updates=minimum_updates,
                deadline_seconds=deadline_seconds,
                lease_seconds=lease_seconds,
                **policy_caps(max_update_norm, on_excess, max_examples_weight),
            ),
            aggregation=aggregation_plan(aggregation, trim_fraction, hostile_clients),
            encoding=EncodingPlan.model_validate({"name": encoding}),
            seed=seed,
            backbone_weights=backbone_weights,
            examples_per_client=examples_per_client,
        )
        text = specification.model_dump_json(indent=1)
        if output is None:
            typer.echo(text)
        else:
            output.write_text(text + "\n")


def _load(config: Path | None) -> tuple[WorkerConfig, WorkerSettings]:
    """What the TOML file and the environment say. Raises ConfigError if they cannot be used."""
    settings = WorkerSettings()
    file = config or settings.worker_config
    if file is None:
        fail("name the worker's TOML file with --config", INVALID_INPUT)
    return load_config(file, settings), settings


def _configure_logging(level: str) -> None:
    """One event a line on stderr: JSON, or coloured text on a terminal."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _print_clients(rows: list[dict[str, Any]], **measures: str) -> None:
    """One line for each client; ``measures`` are columns, and the measure that each shows."""
    table = Table("client", "weights", "examples", *measures, box=None, pad_edge=False)
    for row in rows:
        values = (
            f"{100 * row[name]:.2f} %" if name.startswith("accuracy") else f"{row[name]:.4f}"
            for name in measures.values()
        )
        table.add_row(
            row["client"], str(row["weights_version"]), str(row["num_test_examples"]), *values
        )
    Console(soft_wrap=True).print(table)
