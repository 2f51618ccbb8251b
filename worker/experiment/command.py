"""``hyperfl experiment``: run grids of federations here and compare them with the paper."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.terminal.failures import one_line_errors
from worker.errors import FAILURES, ExperimentError
from worker.experiment.grid import Run, load_experiment, with_backbone_digests, with_hyperparameters
from worker.experiment.paper import load_paper_table
from worker.experiment.plots import draw_curves
from worker.experiment.report import write_markdown
from worker.experiment.results import read_results
from worker.experiment.runner import WITHOUT_FOLDER, find_data_dirs, run_demo, run_missing
from worker.experiment.summary import summarise

experiment = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Run grids of federations on this machine and compare them with the paper.",
)

FileArgument = Annotated[Path, typer.Argument(help="The experiment's TOML file.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(help="Results file; the default is RESULTS.jsonl next to the experiment's file."),
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Folder that holds each data set in a folder of the same name.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@experiment.command()
def run(
    file: FileArgument,
    output: OutputOption = None,
    data_dir: DataDirOption = None,
    keep_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="When a run has ended, read its clients' private states on this machine and keep "
            "the embeddings in this folder, which only you can read."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the missing runs of an experiment; save each result at once.

    If the command is killed, repeat it: it goes on where it was. If a run fails,
    the command reports it and exits with 1 in the end; the next call tries that
    run again.

    Example: hyperfl experiment run experiments/quick.toml
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with one_line_errors(*FAILURES):
        runs = with_hyperparameters(load_experiment(file).runs())
        runs = with_backbone_digests(runs, file.parent)
        folders = find_data_dirs(runs, data_dir)
        results = output or file.with_name("RESULTS.jsonl")
        console = Console(stderr=True, soft_wrap=True)
        states: dict[str, int] = {"skipped": 0, "finished": 0, "failed": 0}
        columns = (
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("", total=len(runs))

            def on_progress(of: Run, state: str) -> None:
                if state == "running":
                    progress.update(bar, description=of.describe())
                    return
                states[state.partition(":")[0]] += 1
                progress.advance(bar)
                if state != "skipped":
                    progress.console.print(f"{of.describe()}: {state}", markup=False)

            def execute(of: Run) -> dict[str, Any]:
                return run_demo(
                    of,
                    folders[of.dataset],
                    file.parent,
                    keep_embeddings,
                    lambda warning: progress.console.print(f"warning: {warning}", markup=False),
                )

            failed = run_missing(runs, results, execute, on_progress)
    if as_json:
        typer.echo(json.dumps({"results": str(results), "runs": len(runs)} | states))
    if failed:
        raise typer.Exit(1)


@experiment.command()
def report(
    file: FileArgument,
    output: OutputOption = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder to write; the default is EXPERIMENT-report next to its file."),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw plots; this needs matplotlib.")] = True,
    data_dir: DataDirOption = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Draw a t-SNE of the private embeddings that `run --keep-embeddings` kept in this "
            "folder. Off by default: clients keep their embeddings to themselves."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report: tables that compare results with the paper's, and plots.

    Give --output and --data-dir as you gave them to `run`. Without --data-dir,
    the report has no plot of the clients' labels for data sets that need a
    folder.

    Example: hyperfl experiment report experiments/quick.toml
    """
    with one_line_errors(*FAILURES):
        loaded = load_experiment(file)
        runs = with_hyperparameters(loaded.runs())
        results = read_results(output or file.with_name("RESULTS.jsonl"))
        paper = (
            None
            if loaded.paper is None
            else load_paper_table(file.with_name("paper.toml"), loaded.paper)
        )
        cells = summarise(runs, results, paper, loaded.checkpoints)
        if not cells:
            raise ExperimentError(
                f"no run of {file} is finished; start with `hyperfl experiment run`"
            )
        folder = folder or file.with_name(f"{file.stem}-report")
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _draw(runs, results, data_dir, embeddings, folder) if plots else []
        text = write_markdown(
            loaded.title,
            cells,
            [run for run in runs if run.key not in results],
            checkpoints=loaded.checkpoints,
            commands=_commands(file, output, runs),
            plots=[(plot.name, shown) for plot, shown in drawn],
        )
        (folder / "report.md").write_text(text)
    if as_json:
        rows: list[dict[str, Any]] = [cell.model_dump(mode="json") for cell in cells]
        typer.echo(json.dumps({"cells": rows, "plots": [str(plot) for plot, _ in drawn]}))
    else:
        typer.echo(text)


@experiment.command()
def pretrain(
    model: Annotated[
        str, typer.Option(help="vit:TIMM_NAME, resnet:TIMM_NAME, or resnet18 to resnet152.")
    ],
    output: Annotated[Path, typer.Option(help="Write to this .safetensors file.")],
    dataset: Annotated[
        str, typer.Option(help="fashion-mnist, emnist, cifar10, cinic10 or digits.")
    ] = "fashion-mnist",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data set; digits needs none.")
    ] = None,
    image_shape: Annotated[
        str, typer.Option(help="Image shape that the backbone takes.")
    ] = "3x32x32",
    clients: Annotated[
        int, typer.Option(min=1, help="Number of clients whose images are left out.")
    ] = 20,
    partition: Annotated[
        str, typer.Option(help="How these clients divide the data: paper, dirichlet or iid.")
    ] = "paper",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate of AdamW.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in a training step.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the partition and of all random draws.")
    ] = 2022,
    as_json: JsonOption = False,
) -> None:
    """Train a backbone for --backbone-weights FILE, on images that no client holds.

    Test images are never read. A twentieth of the images is held out to measure
    accuracy.

    Example: hyperfl experiment pretrain --model resnet18 --output FILE.safetensors
    """
    with one_line_errors(*FAILURES):
        from worker.experiment import pretraining  # noqa: PLC0415 - torch
        from worker.operations.specification import choose_image_shape  # noqa: PLC0415

        def on_epoch(epoch: int, loss: float, accuracy: float) -> None:
            line = f"epoch {epoch}/{epochs}: training loss {loss:.4f}, accuracy {accuracy:.2%}"
            typer.echo(line, err=as_json)

        result = pretraining.pretrain(
            model,
            choose_image_shape(image_shape, model, dataset),
            pretraining.source_of(dataset, data_dir, partition, clients, seed),
            pretraining.Recipe(epochs, learning_rate, batch_size, seed),
            output,
            on_epoch,
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(
            f"{output}: {model}, trained on {result['images']} images that none of {clients} "
            f"clients holds, accuracy {result['accuracy']:.2%}, {result['digest']}"
        )


def _draw(
    runs: list[Run],
    results: dict[str, dict[str, Any]],
    data_dir: Path | None,
    kept_embeddings: Path | None,
    folder: Path,
) -> list[tuple[Path, str]]:
    from worker.experiment.embeddings import draw_embeddings  # noqa: PLC0415 - torch
    from worker.experiment.label_distribution import (  # noqa: PLC0415 - torch
        count_labels,
        draw_label_distributions,
    )

    finished = [run for run in runs if run.key in results]
    readable = [run for run in finished if data_dir is not None or run.dataset in WITHOUT_FOLDER]
    labels = count_labels(readable, find_data_dirs(readable, data_dir))
    drawn = draw_curves(finished, results, folder) + draw_label_distributions(labels, folder)
    if kept_embeddings is not None:
        drawn += draw_embeddings(finished, kept_embeddings, labels, folder)
    return drawn


def _commands(file: Path, output: Path | None, runs: list[Run]) -> list[list[str]]:
    """Those that make results and report; the folder of the data is everybody's own."""
    shared = [str(file)] + ([] if output is None else ["--output", str(output)])
    if any(run.dataset not in WITHOUT_FOLDER for run in runs):
        shared += ["--data-dir", "FOLDER"]
    return [["hyperfl", "experiment", command, *shared] for command in ("run", "report")]
