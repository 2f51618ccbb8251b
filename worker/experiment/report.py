"""The report of an experiment as markdown: tables beside the paper's figures, then the plots."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worker.demo.report import format_bytes
from worker.experiment.grid import Run
from worker.experiment.summary import Cell, RoundAccuracy

_NONE = "–"


def write_markdown(
    title: str,
    cells: Sequence[Cell],
    missing: Sequence[Run],
    *,
    checkpoints: Sequence[int] = (),
    commands: Sequence[Sequence[str]] = (),
    plots: Iterable[tuple[str, str]] = (),
) -> str:
    """The whole report.

    Args:
        title: of the experiment.
        cells: what is finished.
        missing: runs that are not.
        checkpoints: rounds with columns of their own; none: no such table.
        commands: that made it, as words.
        plots: file name and what it shows.
    """
    finished = sum(len(cell.seeds) for cell in cells)
    parts = [f"# {title}", f"{finished} of {finished + len(missing)} runs are finished."]
    if commands:
        parts.append("\n".join(["```bash", *(_as_typed(words) for words in commands), "```"]))
    parts += ["## Accuracy", _table(_accuracy_rows(cells)), _accuracy_notes(cells)]
    if checkpoints:
        parts += ["## Accuracy by round", _table(_checkpoint_rows(cells, checkpoints))]
        parts.append(
            "Before, after and final mean the same as above, for each round. Final is measured by "
            "the next round's clients before they train. A method with a privacy budget spreads "
            "it over all rounds of a run, so only its last round is shown."
        )
    if private := [cell for cell in cells if cell.privacy is not None]:
        parts += ["## Privacy", _table(_privacy_rows(private))]
        parts.append(
            "The budget covers what a client shares in all rounds together, for one of its "
            "training examples. Figures are means over seeds. σ is the noise's standard deviation "
            "divided by the clip norm."
        )
    parts += ["## Cost", _table(_cost_rows(cells))]
    parts.append(
        "Seconds: wall-clock time from a round's start to its commit, for all clients of the round "
        "together, on the machine that ran it. Bytes: HTTP bodies, for one client and round."
    )
    drawn = [f"![{what}]({name})" for name, what in plots]
    parts += ["## Plots", *drawn] if drawn else []
    if missing:
        parts += ["## Missing runs", "\n".join(f"- {run.describe()}" for run in missing)]
    return "\n\n".join(parts) + "\n"


def _as_typed(words: Sequence[str]) -> str:
    return " ".join(word if word.isupper() else shlex.quote(word) for word in words)


def _accuracy_rows(cells: Sequence[Cell]) -> list[dict[str, str]]:
    return [
        _what(cell)
        | {
            "seeds": _seeds(cell),
            "rounds": str(cell.run.rounds),
            "before %": _one(cell.by_round[cell.run.rounds].before),
            "after %": _one(cell.by_round[cell.run.rounds].after),
            "final %": str(cell.final),
            "paper %": _NONE if cell.paper_accuracy is None else f"{cell.paper_accuracy:.2f}",
            "paper's rounds": _one(None if cell.paper_accuracy is None else cell.paper_rounds),
        }
        for cell in cells
    ]


def _accuracy_notes(cells: Sequence[Cell]) -> str:
    notes = [
        "Test accuracy, mean over clients. Before and after: before and after the last round's "
        "local training. With a method that shares its whole model, all clients have the same "
        "model before, and each has its own fine-tuned model after. Final: the last round's "
        "weights with what each client keeps private. ± is the sample standard deviation over "
        "seeds."
    ]
    if any(cell.run.cohort_size is not None for cell in cells):
        notes.append(
            "Where only some clients take part in a round, before and after are means over that "
            "round's clients only; final is over all clients."
        )
    if any(
        cell.paper_accuracy is not None and cell.paper_rounds not in (None, cell.run.rounds)
        for cell in cells
    ):
        notes.append("**The paper trained for a different number of rounds than shown here.**")
    return "\n\n".join(notes)


def _checkpoint_rows(cells: Sequence[Cell], checkpoints: Sequence[int]) -> list[dict[str, str]]:
    nothing = RoundAccuracy(before=None, after=None, final=None)
    rows = []
    for cell in cells:
        row = _what(cell) | {"seeds": _seeds(cell), "rounds": str(cell.run.rounds)}
        for number in checkpoints:
            found = cell.by_round.get(number, nothing)
            row |= {
                f"round {number}: before %": _one(found.before),
                f"round {number}: after %": _one(found.after),
                f"round {number}: final %": _one(found.final),
            }
        rows.append(row)
    return rows


def _privacy_rows(cells: Sequence[Cell]) -> list[dict[str, str]]:
    names = {"epsilon": "ε", "delta": "δ", "noise_multiplier": "σ", "sample_rate": "sample rate"}
    return [
        _what(cell) | {shown: f"{(cell.privacy or {})[name]:.4g}" for name, shown in names.items()}
        for cell in cells
    ]


def _cost_rows(cells: Sequence[Cell]) -> list[dict[str, str]]:
    return [
        _what(cell)
        | {
            "s/round": str(cell.seconds_per_round),
            "paper s/round": _NONE if cell.paper_seconds is None else f"{cell.paper_seconds:g}",
            "up": format_bytes(cell.bytes_up_per_client_round),
            "down": format_bytes(cell.bytes_down_per_client_round),
        }
        for cell in cells
    ]


def _what(cell: Cell) -> dict[str, str]:
    run = cell.run
    cohort = "" if run.cohort_size is None else f" ({run.cohort_size} a round)"
    size = "" if run.image_shape is None else f" {run.image_shape}"
    return {
        "method": run.method,
        "settings": run.variant or _NONE,
        "data set": run.dataset,
        "model": f"{run.model or _NONE}{size}",
        "clients": f"{run.clients}{cohort}",
    }


def _seeds(cell: Cell) -> str:
    count, planned = len(cell.seeds), cell.num_seeds_planned
    return str(count) if count == planned else f"{count} of {planned}"


def _one(value: object | None) -> str:
    return _NONE if value is None else str(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Without the columns that say nothing in any row."""
    columns = [name for name in rows[0] if any(row[name] != _NONE for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
