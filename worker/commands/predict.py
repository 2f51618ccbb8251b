"""``hyperfl worker predict``: what a client's own model says about images."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.terminal.logs import configure_logging
from worker.commands.configuration import (
    ConfigOption,
    JsonOption,
    UntrainedOption,
    WhichOption,
    dash_is_stdout,
    failures,
    load,
)
from worker.files import write_atomically

if TYPE_CHECKING:
    from worker.operations.prediction import Predictions

_DIGITS = 6


def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them; or tables of rows.")
    ],
    client: Annotated[str, typer.Option(help="Name of a client in the TOML file.")],
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="CSV file to write; the default is stdout.", callback=dash_is_stdout),
    ] = None,
    which: WhichOption = "final",
    untrained: UntrainedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify images or rows with a client's own model; send nothing.

    The images are read as the client's data are: upright, on white, at the
    model's size. A client that was trained on arrays takes .npz and .safetensors
    with `images` or `features`; one that was trained on rows of features takes
    .csv and .parquet. The CSV has a line for each image or row: the file, the most
    probable class, and the probability of each class.

    Example: hyperfl worker predict --client site-a --output predictions.csv new-images
    """
    with failures():
        from worker.operations.prediction import predict as operation  # noqa: PLC0415 - torch
        from worker.site.versions import parse_which  # noqa: PLC0415 - torch

        loaded, settings = load(config)
        configure_logging("error")
        found = asyncio.run(
            operation(
                loaded,
                settings,
                client=client,
                images=images,
                untrained=untrained,
                which=parse_which(which),
            )
        )
        rows = _rows(found)
        if output is not None:
            write_atomically(output, _csv(rows).encode())
    if as_json:
        typer.echo(json.dumps({"weights_version": found.weights_version, "predictions": rows}))
    elif output is None:
        typer.echo(_csv(rows), nl=False)
    else:
        typer.echo(f"{output}: {len(rows)} predictions, by weights version {found.weights_version}")


def _rows(found: Predictions) -> list[dict[str, str | float]]:
    """A row for each image: ``file``, ``class``, and a probability by each class's name."""
    rows = []
    for one in found.images:
        by_class = dict(zip(found.class_names, one.probabilities, strict=True))
        likeliest = max(by_class, key=by_class.__getitem__)
        rounded = {f"p({name})": round(value, _DIGITS) for name, value in by_class.items()}
        rows.append({"file": one.name, "class": likeliest} | rounded)
    return rows


def _csv(rows: list[dict[str, str | float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
