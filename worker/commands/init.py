"""``hyperfl worker init``: a TOML file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.commands.configuration import failures, write_new
from worker.settings import WorkerSettings


def init(
    output: Annotated[Path, typer.Option(help="File to write, which must not exist.")] = Path(
        "worker.toml"
    ),
    coordinator_url: Annotated[
        str | None,
        typer.Option(help="The coordinator's address; the default is HYPERFL_COORDINATOR_URL."),
    ] = None,
    federation: Annotated[str, typer.Option(help="The federation's name.")] = "hospitals",
    client: Annotated[str, typer.Option(help="The client's name.")] = "site-a",
    data_dir: Annotated[Path, typer.Option(help="Folder with train/CLASS and test/CLASS.")] = Path(
        "/data/images"
    ),
) -> None:
    """Write a worker's TOML file: every member, what it is for, and its default.

    The administrator says the address and both names. The token goes to a file
    beside, called CLIENT.token.

    Example: hyperfl worker init --federation hospitals --client site-a --data-dir /data/images
    """
    with failures():
        from worker.operations.first_config import first_config  # noqa: PLC0415 - starts faster

        url = coordinator_url or WorkerSettings().coordinator_url
        text = first_config(url or "https://federation.example.org", federation, client, data_dir)
        write_new(output, text)
    typer.echo(
        f"{output}: edit it, put the token into {client}.token, then run "
        f"hyperfl worker check --config {output}"
    )
