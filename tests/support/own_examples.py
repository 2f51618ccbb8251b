"""Examples as a site's own code gives them."""

from __future__ import annotations

from typing import Any

import numpy as np


def splits() -> dict[str, Any]:
    """Two images of 4x4 of each of three classes to train on, and one to test."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8)
    labels = np.arange(9) % 3
    return {"train": (pixels[:6], labels[:6]), "test": (pixels[6:], labels[6:])}


def broken() -> dict[str, Any]:
    raise RuntimeError("no scanner today")
