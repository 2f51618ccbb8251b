"""``hyperfl federation export``: rounds, metrics, parameters and digests for other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands.connection import (
    DEFAULT_URL,
    Connection,
    JsonOption,
    TokenFileOption,
    UrlOption,
    connect,
)
from coordinator.commands.round import all_rounds
from coordinator.commands.watching import CLOSED, Event, Watch
from coordinator.errors import ExportFailed, NotExported
from coordinator.tracking.formats import Format, check_packages, make_tracker
from coordinator.tracking.interface import Tracker
from shared.rest.schema import FederationView, RoundView
from shared.terminal.failures import one_line_errors
from shared.terminal.tables import print_json

_TRACKING_URI = "MLFLOW_TRACKING_URI"


def export(
    name: Annotated[str, typer.Argument(help="The federation's name.")],
    file_format: Annotated[
        Format, typer.Option("--format", help="csv, parquet, tensorboard or mlflow.")
    ] = "csv",
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder to write, which must not exist; the default is NAME-FORMAT. For mlflow "
            f"its tracking URI; the default is {_TRACKING_URI}."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with each round until the federation ends.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    admin_token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a federation's closed rounds for other programs.

    Rounds, and clients' parts in them, have their metrics, bytes and digests; the
    specification gives the parameters. csv and parquet are three tables. All but
    csv need hyperfl's extra `tracking`.

    An export that fails leaves nothing. With --follow every file is whole after
    each round, and stays.

    Example: hyperfl federation export hospitals --format parquet
    """
    with one_line_errors(ExportFailed):
        check_packages(file_format)
        place = _place(name, file_format, output)
        with (
            connect(url, admin_token_file) as connection,
            _tracker(file_format, place, follow=follow) as tracker,
        ):
            count = _write(connection, name, tracker, follow=follow)
    if as_json:
        print_json({"output": place, "rounds": count})
    else:
        typer.echo(f"{place}: {count} rounds")


def _place(name: str, file_format: Format, output: str | None) -> str:
    if file_format == "mlflow":
        place = output or os.environ.get(_TRACKING_URI)
        if not place:
            raise NotExported(f"give MLflow's tracking URI with --output or {_TRACKING_URI}")
        return place
    place = output or f"{name}-{file_format}"
    if Path(place).exists():
        raise NotExported(f"{place} exists, and is left as it is")
    return place


@contextmanager
def _tracker(file_format: Format, place: str, *, follow: bool) -> Iterator[Tracker]:
    """Writes a folder beside ``place``, which becomes that when it is whole."""
    if follow:
        yield make_tracker(file_format, place)
        return
    folder = Path(place)
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    is_folder = file_format != "mlflow"
    tracker = make_tracker(file_format, str(part) if is_folder else place)
    try:
        yield tracker
        if is_folder:
            part.rename(folder)
    except BaseException:
        tracker.discard()
        raise


def _write(connection: Connection, name: str, tracker: Tracker, *, follow: bool) -> int:
    """Hands the closed rounds on; returns how many there were."""
    path, count = f"/v1/federations/{name}", 0
    federation: dict[str, Any] = connection.get(path, FederationView)

    def take(number: int) -> None:
        nonlocal count
        tracker.add(connection.get(f"{path}/rounds/{number}", RoundView))
        count += 1

    def on_event(event: Event) -> None:
        if "round" in event:
            take(event["round"]["number"])
            tracker.flush()

    tracker.begin(federation)
    if follow:
        federation = Watch(connection, name, on_event).run()
    else:
        for one in all_rounds(connection, name):
            if one["phase"] in CLOSED:
                take(one["number"])
    tracker.end(federation)
    return count
