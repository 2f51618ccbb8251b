"""Results beside the paper's figures: means and standard deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.demo.report import format_bytes
from worker.experiment.grid import ExperimentError, Run, describe_first, load_toml

Json = dict[str, Any]


class Figure(BaseModel):
    """One number of the paper, and what it was measured for. None means whatever it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    dataset: str
    clients: int
    model: str | None = None
    accuracy: float | None = Field(default=None, ge=0.0, le=100.0)
    """Final test accuracy in percent."""
    seconds: float | None = Field(default=None, gt=0.0)
    """Seconds a round."""

    def fits(self, run: Run) -> bool:
        """Whether the figure is for such runs."""
        return (self.method, self.dataset, self.clients) == (
            run.method,
            run.dataset,
            run.clients,
        ) and self.model in (None, run.model)


class Cell(BaseModel):
    """Runs that differ in their seed alone. Standard deviations are None for a single seed."""

    model_config = ConfigDict(frozen=True)

    run: Run
    seeds: tuple[int, ...]
    accuracy: float
    """Mean over seeds of the final accuracy in percent."""
    accuracy_deviation: float | None
    seconds_per_round: float
    seconds_deviation: float | None
    bytes_up_per_client_round: float
    bytes_down_per_client_round: float
    paper_accuracy: float | None
    paper_seconds: float | None


def load_figures(file: Path, table: str) -> list[Figure]:
    """The figures of one of the paper's tables.

    Raises:
        ExperimentError: the file or the table is missing or wrong.
    """
    tables = load_toml(file)
    if table not in tables:
        raise ExperimentError(f"{file} has no table {table!r}; it has {', '.join(tables)}")
    try:
        return [Figure.model_validate(row) for row in tables[table]["figures"]]
    except ValidationError as error:
        raise ExperimentError(f"{file}: {table}: {describe_first(error)}") from error
    except (KeyError, TypeError) as error:
        raise ExperimentError(f"{file}: {table}: expected figures, a list of tables") from error


def summarise(
    runs: Iterable[Run], results: Mapping[str, Json], figures: Sequence[Figure]
) -> list[Cell]:
    """One cell for all runs that differ in their seed alone, of those that are finished."""
    cells: dict[str, list[Run]] = {}
    for run in runs:
        if run.key in results:
            cells.setdefault(run.cell, []).append(run)
    return [_summarise_cell(members, results, figures) for members in cells.values()]


def _summarise_cell(
    members: list[Run], results: Mapping[str, Json], figures: Sequence[Figure]
) -> Cell:
    found = [results[run.key] for run in members]
    accuracies = [result["accuracy_final_mean"] for result in found]
    seconds = [statistics.fmean(result["seconds_per_round"]) for result in found]
    figure = next((figure for figure in figures if figure.fits(members[0])), None)
    return Cell(
        run=members[0],
        seeds=tuple(run.seed for run in members),
        accuracy=statistics.fmean(accuracies),
        accuracy_deviation=_deviation(accuracies),
        seconds_per_round=statistics.fmean(seconds),
        seconds_deviation=_deviation(seconds),
        bytes_up_per_client_round=statistics.fmean(r["bytes_up_per_client_round"] for r in found),
        bytes_down_per_client_round=statistics.fmean(
            r["bytes_down_per_client_round"] for r in found
        ),
        paper_accuracy=None if figure is None else figure.accuracy,
        paper_seconds=None if figure is None else figure.seconds,
    )


def _deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


_COLUMNS = (
    "method",
    "data set",
    "clients",
    "rounds",
    "model, preset, settings",
    "seeds",
    "accuracy %",
    "paper %",
    "s/round",
    "paper s/round",
    "up",
    "down",
)


def write_markdown(title: str, cells: Sequence[Cell], num_runs: int) -> str:
    """A table with a row for each cell, and how much of the experiment is in it."""
    finished = sum(len(cell.seeds) for cell in cells)
    lines = [
        f"# {title}",
        "",
        f"{finished} of {num_runs} runs. Accuracy: mean over clients of the final personalised "
        "model; ± is the sample standard deviation over seeds. Bytes: per client and round.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    lines += [f"| {' | '.join(_row(cell))} |" for cell in cells]
    return "\n".join(lines) + "\n"


def _row(cell: Cell) -> list[str]:
    run = cell.run
    settings = [f"{name}={value}" for name, value in run.settings.items()]
    return [
        run.method,
        run.dataset,
        str(run.clients),
        str(run.rounds),
        ", ".join([part for part in (run.model, run.preset) if part] + settings) or "–",
        str(len(cell.seeds)),
        _with_deviation(cell.accuracy, cell.accuracy_deviation),
        "–" if cell.paper_accuracy is None else f"{cell.paper_accuracy:.2f}",
        _with_deviation(cell.seconds_per_round, cell.seconds_deviation),
        "–" if cell.paper_seconds is None else f"{cell.paper_seconds:g}",
        format_bytes(cell.bytes_up_per_client_round),
        format_bytes(cell.bytes_down_per_client_round),
    ]


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
