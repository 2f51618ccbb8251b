"""What an audit shows in pictures: grids of images, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worker.audit.image_leakage import Picture

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
    """Writes leakage against steps and cohort; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = [row for row in images if "attacks" in row and not row["is_configured"]]
    for count in sorted({row["images"] for row in measured}):
        rows = sorted(
            (row for row in measured if row["images"] == count), key=lambda row: row["steps"]
        )
        best = [row["attacks"][row["strongest"]]["psnr"] for row in rows]
        middle = [one["mean"] for one in best]
        spread = [
            [mean - one["low"] for mean, one in zip(middle, best, strict=True)],
            [one["high"] - mean for mean, one in zip(middle, best, strict=True)],
        ]
        steps = [row["steps"] for row in rows]
        left.errorbar(steps, middle, yerr=spread, marker="o", capsize=3, label=f"images: {count}")
    if measured:
        blind = float(np.mean([row["attacks"][row["strongest"]]["blind"][0] for row in measured]))
        similar = float(np.mean([row["attacks"][row["strongest"]]["similar"] for row in measured]))
        left.axhline(blind, color="grey", linestyle=":", label="blind guess")
        left.axhline(similar, color="grey", linestyle="--", label="nearest public image")
        left.legend(fontsize="small")
    left.set(xscale="log", xlabel="steps of a round", ylabel="PSNR of the strongest attack (dB)")
    for name, label in (("sum", "the sum itself"), ("blind", "blind"), ("known", "features known")):
        rows = [row for row in cohorts if name in row]
        if rows:
            sizes = [row["cohort"] for row in rows]
            right.plot(sizes, [row[name]["mean"] for row in rows], marker="o", label=label)
    right.set(xlabel="clients in a sum", ylabel="cosine with a client's own part", ylim=(0, 1.02))
    if cohorts:
        right.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    return True


def _bytes(image: torch.Tensor, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.asarray(pixels[0] if channels == 1 else pixels[:3].transpose(1, 2, 0))
