"""Plots of an experiment: one PNG a measure, one panel a data set and number of clients."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worker.experiment.grid import ExperimentError, Run

Json = dict[str, Any]
_MEASURES = {
    "accuracy": ("accuracy_after", "accuracy after local training (%)"),
    "loss": ("loss_after", "loss after local training"),
    "bytes": ("bytes", "bytes up and down"),
    "seconds": ("seconds", "seconds"),
}


def mean_curves(
    runs: Iterable[Run], results: Mapping[str, Json], measure: str
) -> dict[tuple[str, int], dict[str, list[float]]]:
    """Means over seeds round by round: by data set and number of clients, then by label.

    Rounds without the measure are left out, as are runs that are not finished.
    """
    key, _ = _MEASURES[measure]
    series: dict[tuple[str, int], dict[str, list[list[float]]]] = {}
    for run in runs:
        if run.key not in results:
            continue
        values = [
            float(found)
            for round_ in results[run.key]["rounds_detail"]
            if (found := _value(round_, key)) is not None
        ]
        panel = series.setdefault((run.dataset, run.clients), {})
        panel.setdefault(_label(run), []).append(values)
    return {
        panel: {
            label: [statistics.fmean(at_round) for at_round in zip(*curves, strict=False)]
            for label, curves in lines.items()
        }
        for panel, lines in series.items()
    }


def draw_plots(runs: list[Run], results: Mapping[str, Json], folder: Path) -> list[Path]:
    """Writes the plots into ``folder``.

    Raises:
        ExperimentError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ExperimentError(
            "plots need matplotlib: pip install 'hyperfl[worker,experiments]', or --no-plots"
        ) from error
    files = []
    for measure, (_, label) in _MEASURES.items():
        panels = mean_curves(runs, results, measure)
        if not panels:
            continue
        figure = Figure(figsize=(5.0 * len(panels), 3.6), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, ((dataset, clients), lines) in zip(axes, panels.items(), strict=True):
            for name, values in lines.items():
                axis.plot(range(1, len(values) + 1), values, label=name)
            axis.set(title=f"{dataset}, {clients} clients", xlabel="round", ylabel=label)
            axis.legend(fontsize="small")
        files.append(folder / f"{measure}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _value(round_: Json, key: str) -> float | None:
    if key == "bytes":
        return float(round_["bytes_up"] + round_["bytes_down"])
    found: float | None = round_.get(key)
    return found


def _label(run: Run) -> str:
    settings = [f"{name}={value}" for name, value in run.settings.items()]
    return " ".join([part for part in (run.method, run.model, run.preset) if part] + settings)
