"""Ten classes of 4x4 images that load in no time, for federations whose subject is not accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 10
TRAIN_EXAMPLES, TEST_EXAMPLES = 200, 60
_SIDE = 4

TINY_MODEL = ("--model", "tests.support.extractors:tiny", "--image-shape", "1x4x4")
"""Options of ``worker specify`` and of ``demo``."""

TINY_TRAINING = (*TINY_MODEL, "--set", "epochs=1")


def write_tiny_images(folder: Path) -> Path:
    """Writes the images of :func:`write_images` that ``TINY_MODEL`` takes."""
    write_images(folder, NUM_CLASSES, _SIDE, TRAIN_EXAMPLES, TEST_EXAMPLES)
    return folder


def write_images(
    folder: Path, num_classes: int, side: int, train_examples: int, test_examples: int
) -> None:
    """Writes an ``image-folder``: noise with one bright pixel, whose place is the class."""
    generator = np.random.default_rng(4)
    for split, examples in (("train", train_examples), ("test", test_examples)):
        for label in range(num_classes):
            class_folder = folder / split / f"class-{label}"
            class_folder.mkdir(parents=True)
            for number in range(examples // num_classes):
                pixels = generator.integers(0, 60, (side, side), dtype=np.uint8)
                pixels.flat[label] = 255
                Image.fromarray(pixels).save(class_folder / f"{number}.png")


def tiny_data(folder: Path | str, num_clients: int = 1) -> str:
    """A ``[clients.data]`` table for :func:`worker_toml`, whose clients divide the images."""
    lines = ['dataset = "image-folder"', f'data_dir = "{folder}"']
    if num_clients > 1:
        lines += ['partition = "iid"', f"num_clients = {num_clients}", "client_index = {index}"]
    return "\n".join(lines)
