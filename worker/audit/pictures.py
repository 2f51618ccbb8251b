"""What an audit shows in pictures: grids of images, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worker.audit.image_leakage import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = dict[str, Any]
_SCALE, _GAP = 3, 4
_ROWS = ("original", "reconstruction", "blind guess", "nearest public image")


def draw_grid(picture: Picture, file: Path) -> None:
    """Writes a PNG with one column an image, and rows with the names that are its captions."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - slow to import

    _, channels, height, width = picture.rows[0].shape
    scale = max(1, _SCALE * 28 // max(height, width))
    cell_height, cell_width = height * scale + _GAP, width * scale + _GAP
    margin = 8 * max(map(len, _ROWS))
    size = (margin + cell_width * len(picture.rows[0]), cell_height * len(picture.rows))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, images) in enumerate(zip(_ROWS, picture.rows, strict=True)):
        draw.text((2, row * cell_height + cell_height // 2 - 6), name, fill="black")
        for column, image in enumerate(images):
            tile = Image.fromarray(_bytes(image, channels)).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            canvas.paste(tile, (margin + column * cell_width, row * cell_height))
    canvas.save(file, optimize=True)


def draw_curves(images: Sequence[Json], cohorts: Sequence[Json], file: Path) -> bool:
    """Writes leakage against steps and cohort, or ε; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = [row for row in images if "attacks" in row and not row["is_configured"]]
    budgets = {row["epsilon"] for row in images}
    if budgets - {None}:
        configured = next(row["epsilon"] for row in images if row["is_configured"])
        _draw_psnr(left, [row for row in measured if row["epsilon"] == configured], "images")
        left.set(xlabel="images of a client, in one step")
        _draw_psnr(right, [row for row in measured if row["images"] == 1], "epsilon")
        right.set(xlabel="ε, one image in one step")
    else:
        _draw_psnr(left, measured, "steps")
        left.set(xlabel="steps of a round")
        _draw_cosines(right, cohorts)
    figure.savefig(file, dpi=120)
    return True


def _draw_psnr(axes: Axes, rows: Sequence[Json], against: str) -> None:
    """PSNR of the strongest attack; where it is against steps, a line for each number of images."""
    counts = sorted({row["images"] for row in rows}) if against == "steps" else [None]
    for count in counts:
        chosen = sorted(
            (row for row in rows if count in (None, row["images"])), key=lambda row: row[against]
        )
        best = [row["attacks"][row["strongest"]]["psnr"] for row in chosen]
        middle = [one["mean"] for one in best]
        spread = [
            [mean - one["low"] for mean, one in zip(middle, best, strict=True)],
            [one["high"] - mean for mean, one in zip(middle, best, strict=True)],
        ]
        label = "strongest attack" if count is None else f"images: {count}"
        places = [row[against] for row in chosen]
        axes.errorbar(places, middle, yerr=spread, marker="o", capsize=3, label=label)
    if rows:
        strongest = [row["attacks"][row["strongest"]] for row in rows]
        blind = float(np.mean([one["blind"][0] for one in strongest]))
        similar = float(np.mean([one["similar"] for one in strongest]))
        axes.axhline(blind, color="grey", linestyle=":", label="blind guess")
        axes.axhline(similar, color="grey", linestyle="--", label="nearest public image")
        axes.legend(fontsize="small")
    axes.set(xscale="log", ylabel="PSNR of the strongest attack (dB)")


def _draw_cosines(axes: Axes, cohorts: Sequence[Json]) -> None:
    for name, label in (("sum", "the sum itself"), ("blind", "blind"), ("known", "features known")):
        rows = [row for row in cohorts if name in row]
        if rows:
            sizes = [row["cohort"] for row in rows]
            axes.plot(sizes, [row[name]["mean"] for row in rows], marker="o", label=label)
    axes.set(xlabel="clients in a sum", ylabel="cosine with a client's own part", ylim=(0, 1.02))
    if cohorts:
        axes.legend(fontsize="small")


def _bytes(image: torch.Tensor, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.asarray(pixels[0] if channels == 1 else pixels[:3].transpose(1, 2, 0))
