"""``hyperfl worker status``: what this worker's clients have done, and how good they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from shared.terminal.logs import configure_logging
from shared.terminal.tables import print_json, print_table
from worker.commands.configuration import ConfigOption, JsonOption, failures, load

if TYPE_CHECKING:
    from worker.operations.status import ClientStatus
    from worker.site.history import HistoryRow

_COLUMNS = (
    *("client", "federation", "rounds", "last_round", "trusted_peers", "epsilon"),
    *("accuracy", "best"),
)
_ROUND_COLUMNS = (
    *("round", "kind", "accuracy_before", "accuracy_after", "accuracy", "balanced_accuracy"),
    *("auroc", "loss", "calibration_error", "validation", "sent_bytes", "withheld"),
)


def status(
    config: ConfigOption = None,
    client: Annotated[
        str | None, typer.Option(help="Show this client's rounds and classes too.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Newest rounds of --client to show.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show what each client has trained, whom it trusts, and what of its budget is spent.

    `epsilon` is what all its updates together have spent at most, of the budget.
    `accuracy` is of the newest round, on the client's test data; `best` is the
    accuracy on its validation split of the version that was best there. All this
    comes from a file at this site. A worker may be running meanwhile.

    Example: hyperfl worker status --config worker.toml --client site-a
    """
    with failures():
        from worker.operations.status import client_statuses  # noqa: PLC0415 - the worker's packages

        loaded, settings = load(config)
        if client is not None:
            loaded = loaded.only(client)
        configure_logging("warning")
        found = asyncio.run(client_statuses(loaded, settings))
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    print_table([_row(one) for one in found], _COLUMNS)
    if client is not None and found[0].history:
        _print_rounds(found[0].history[-rounds:])


def _as_json(one: ClientStatus) -> dict[str, Any]:
    return {field.name: _plain(getattr(one, field.name)) for field in fields(one)}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _row(one: ClientStatus) -> dict[str, Any]:
    spent = "–"
    if one.epsilon_spent is not None:
        spent = f"{one.epsilon_spent:.2f} of {one.epsilon:g}"
    newest = one.history[-1] if one.history else None
    return {field.name: getattr(one, field.name) for field in fields(one)} | {
        "epsilon": spent,
        "accuracy": None if newest is None or newest.scores is None else newest.scores.accuracy,
        "best": None if one.best is None else f"{one.best.accuracy:.4g} in {one.best.round_number}",
    }


def _print_rounds(rows: Iterable[HistoryRow]) -> None:
    """The rounds as a table, then the newest one's classes and confusion matrix."""
    shown, newest = [], None
    for row in rows:
        scores = {} if row.scores is None else row.scores.model_dump()
        shown.append(
            dict(row.metrics)
            | scores
            | {
                "round": row.round_number,
                "kind": row.kind.value,
                "validation": None if row.validation is None else row.validation.accuracy,
                "sent_bytes": row.sent.bytes,
                "withheld": ", ".join(row.sent.withheld_metrics),
            }
        )
        newest = row
    typer.echo()
    print_table(shown, _ROUND_COLUMNS)
    if newest is None or newest.scores is None:
        return
    typer.echo(f"\nround {newest.round_number}, classes of the test data:")
    classes = [
        one.model_dump() | {"train": newest.examples["train"].get(one.name, 0)}
        for one in newest.scores.classes
    ]
    columns = ("name", "train", "examples", "sensitivity", "specificity", "auroc")
    print_table(classes, columns)
    typer.echo("\nexamples by class (row) and by what the model says (column):")
    names = [one.name for one in newest.scores.classes]
    matrix = [
        {"class": name} | dict(zip(names, counts, strict=True))
        for name, counts in zip(names, newest.scores.confusion, strict=True)
    ]
    print_table(matrix, ("class", *names))
