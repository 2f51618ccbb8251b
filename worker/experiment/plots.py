"""Plots round by round: one PNG a measure, one panel a data set, model and number of clients."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worker.experiment.drawing import describe_panel, looks_of, new_figure, save
from worker.experiment.grid import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Json = dict[str, Any]
_VARIANT_STYLES = ("-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_VARIANT_FILLS: tuple[Literal["full", "left", "bottom", "top"], ...] = (
    "full",
    "left",
    "bottom",
    "top",
)
_MARKERS_A_CURVE = 6


@dataclass(frozen=True)
class _Measure:
    name: str
    keys: tuple[str, ...]
    """Of a round in the results, added up."""
    axis: str
    title: str
    unit: str | None = None
    from_zero: bool = False


_MEASURES = (
    _Measure(
        "accuracy",
        ("accuracy_after",),
        "test accuracy (%)",
        "Test accuracy after local training, and before it (thin): mean over clients and seeds, "
        "range over seeds",
    ),
    _Measure(
        "loss",
        ("loss_after",),
        "test loss (nats)",
        "Test loss after local training, and before it (thin): mean over clients and seeds, "
        "range over seeds",
    ),
    _Measure(
        "bytes",
        ("bytes_up", "bytes_down"),
        "bytes a round, all clients",
        "HTTP bodies, up and down",
        unit="B",
        from_zero=True,
    ),
    _Measure(
        "seconds",
        ("seconds",),
        "seconds a round, all clients",
        "Wall clock of a round",
        from_zero=True,
    ),
)
_BEFORE = {"accuracy": "accuracy_before", "loss": "loss_before"}


@dataclass(frozen=True)
class Curve:
    """One line: a value for each round, the mean over seeds.

    Attributes:
        run: any of the runs.
        label: in the legend: the method, with what sets its runs apart in the panel.
        is_before: of the round's weights with each client's private tensors, before it trains.
        means: by round, from the first.
        lowest: over seeds.
        highest: over seeds.
    """

    run: Run
    label: str
    is_before: bool
    means: list[float]
    lowest: list[float]
    highest: list[float]


def find_curves(
    runs: Iterable[Run], results: Mapping[str, Json], measure: str
) -> dict[str, list[Curve]]:
    """Curves by panel. Runs that are not finished, or lack the measure, are left out."""
    (chosen,) = (one for one in _MEASURES if one.name == measure)
    cells: dict[str, list[Run]] = {}
    for run in runs:
        if run.key in results:
            cells.setdefault(run.cell, []).append(run)
    rounds: dict[tuple[str, str], set[int]] = {}
    for run, *_ in cells.values():
        rounds.setdefault((describe_panel(run), _label(run)), set()).add(run.rounds)
    panels: dict[str, list[Curve]] = {}
    for members in cells.values():
        panel, label = describe_panel(members[0]), _label(members[0])
        if len(rounds[panel, label]) > 1:
            label += f", {members[0].rounds} rounds"
        found = [results[run.key]["rounds_detail"] for run in members]
        curves = [_curve(members[0], label, found, chosen.keys, is_before=False)]
        if measure in _BEFORE:
            curves.append(_curve(members[0], label, found, (_BEFORE[measure],), is_before=True))
        panels.setdefault(panel, []).extend(curve for curve in curves if curve.means)
    return {panel: curves for panel, curves in panels.items() if curves}


def draw_curves(
    runs: list[Run], results: Mapping[str, Json], folder: Path
) -> list[tuple[Path, str]]:
    """Writes a plot for each measure into ``folder``; the files, and what they show.

    Raises:
        ExperimentError: matplotlib is not installed.
    """
    drawn = []
    for measure in _MEASURES:
        panels = find_curves(runs, results, measure.name)
        if not panels:
            continue
        _draw(panels, measure, folder / f"{measure.name}.png")
        drawn.append((folder / f"{measure.name}.png", measure.title))
    return drawn


def _draw(panels: Mapping[str, list[Curve]], measure: _Measure, file: Path) -> None:
    figure, axes = new_figure(len(panels), panel_height_inches=4.0)
    every = [curve for curves in panels.values() for curve in curves]
    looks = looks_of(curve.run.method for curve in every)
    variants: dict[str, list[str]] = {}
    for curve in every:
        known = variants.setdefault(curve.run.method, [])
        if curve.label not in known:
            known.append(curve.label)
    lines: dict[str, dict[str, Line2D]] = {method: {} for method in looks}
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for position, curve in enumerate(curves):
            method = curve.run.method
            index = variants[method].index(curve.label) % len(_VARIANT_STYLES)
            line = _draw_curve(axis, curve, looks[method], _VARIANT_STYLES[index])
            line.set_fillstyle(_VARIANT_FILLS[index])
            # Curves that lie upon each other show their markers in turns.
            step = max(1, len(curve.means) // _MARKERS_A_CURVE)
            line.set_markevery((position * step // len(curves), step))
            # The title says which curves are thin.
            if not curve.is_before:
                lines[method].setdefault(curve.label, line)
        _describe_axes(axis, measure, title)
    legend = {label: line for of in lines.values() for label, line in of.items()}
    figure.suptitle(measure.title, fontsize="medium")
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=min(4, len(legend))
    )
    save(figure, file)


def _draw_curve(axis: Axes, curve: Curve, look: tuple[str, str], style: Any) -> Line2D:
    rounds = range(1, len(curve.means) + 1)
    colour, marker = look
    (line,) = axis.plot(
        rounds,
        curve.means,
        color=colour,
        linestyle=style,
        linewidth=0.7 if curve.is_before else 1.5,
        marker=marker,
        markersize=5,
        markerfacecolor="white" if curve.is_before else colour,
    )
    if curve.lowest != curve.highest:
        axis.fill_between(
            rounds, curve.lowest, curve.highest, color=colour, alpha=0.15, linewidth=0
        )
    return line


def _describe_axes(axis: Axes, measure: _Measure, title: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: PLC0415 - an extra

    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("round")
    axis.set_ylabel(measure.axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.grid(alpha=0.25)
    if measure.unit is not None:
        axis.yaxis.set_major_formatter(EngFormatter(unit=measure.unit))
    if measure.from_zero:
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])


def _label(run: Run) -> str:
    return f"{run.method} ({run.variant})" if run.variant else run.method


def _curve(
    run: Run, label: str, found: list[list[Json]], keys: tuple[str, ...], *, is_before: bool
) -> Curve:
    by_seed = [
        [float(sum(round_[key] for key in keys)) for round_ in rounds]
        for rounds in found
        if all(key in round_ for round_ in rounds for key in keys)
    ]
    by_round = list(zip(*by_seed, strict=True))
    return Curve(
        run=run,
        label=label,
        is_before=is_before,
        means=[statistics.fmean(values) for values in by_round],
        lowest=[min(values) for values in by_round],
        highest=[max(values) for values in by_round],
    )
