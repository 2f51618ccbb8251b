"""What all plots have in common: matplotlib, sizes for a README's width, a method's looks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import ExperimentError
from worker.experiment.grid import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 8.0
"""At 150 dots an inch, read at two thirds of its size in a README."""
_DPI = 150
_LOOKS = {
    "hyperfl": ("#0072B2", "o"),
    "hyperfl-lpm": ("#0072B2", "o"),
    "hyperfl-plus": ("#000000", "*"),
    "fedavg": ("#D55E00", "s"),
    "fedprox": ("#56B4E9", "p"),
    "fedper": ("#8C564B", "h"),
    "fedbn": ("#BCBD22", "<"),
    "ditto": ("#17BECF", ">"),
    "fedpac": ("#9467BD", "v"),
    "pfedhn": ("#F0E442", "d"),
    "fedavg-adapter": ("#D55E00", "s"),
    "fedavg-fixed": ("#E69F00", "D"),
    "local": ("#555555", "^"),
    "local-adapter": ("#555555", "^"),
    "local-fixed": ("#AAAAAA", "v"),
    "dp-fedavg": ("#CC79A7", "P"),
    "centaur": ("#009E73", "X"),
    "ppsgd": ("#E69F00", "D"),
}
_OTHER_LOOKS = (("#56B4E9", "P"), ("#8C564B", "H"), ("#BCBD22", "8"), ("#17BECF", "*"))


def looks_of(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, in their order; those with a name always have the same.

    Most colours are of Okabe and Ito's palette, which colour-blind people can tell apart.
    """
    unique = list(dict.fromkeys(methods))
    others = [method for method in unique if method not in _LOOKS]
    return {
        method: _LOOKS.get(method) or _OTHER_LOOKS[others.index(method) % len(_OTHER_LOOKS)]
        for method in unique
    }


def new_figure(num_panels: int, panel_height_inches: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``num_panels`` panels, two a row.

    Raises:
        ExperimentError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as NewFigure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ExperimentError(
            "plots need matplotlib: pip install 'hyperfl[worker,experiments]', or --no-plots"
        ) from error
    columns = min(2, num_panels)
    rows = -(-num_panels // columns)
    figure = NewFigure(figsize=(WIDTH_INCHES, panel_height_inches * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[num_panels:]:
        unused.remove()
    return figure, axes[:num_panels]


def describe_panel(run: Run) -> str:
    """A panel's title: everything that runs in it have in common."""
    cohort = "" if run.cohort_size is None else f" ({run.cohort_size} a round)"
    model = "" if run.model is None else f", {run.model.removeprefix('vit:')}"
    return f"{run.dataset}{model}\n{run.clients} clients{cohort}"


def save(figure: Figure, file: Path) -> None:
    """Writes the PNG."""
    figure.savefig(file, dpi=_DPI)
