"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8x8."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from worker.data.images import LabelledImages

DIGIT_CLASSES = tuple(str(label) for label in range(10))

_TEST_EVERY = 5


def read_digits() -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of the digits, pixels scaled from 0..16 to 0..255.

    The data set has no split of its own. Here every fifth image of each class is a test image:
    80 to 20, stratified, and the same for every seed of a partition.

    Raises:
        OSError: scikit-learn has no such file.
    """
    # A row: 64 pixels and the label.
    with gzip.open(_digits_file(), "rt") as file:
        rows = np.loadtxt(file, np.int64, delimiter=",")
    labels = rows[:, -1]
    pixels = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    place_in_class = np.empty_like(labels)
    for label in range(10):
        members = labels == label
        place_in_class[members] = np.arange(members.sum())
    is_test = place_in_class % _TEST_EVERY == _TEST_EVERY - 1
    return _select(pixels, labels, ~is_test), _select(pixels, labels, is_test)


def _digits_file() -> Path:
    """The file that ``sklearn.datasets.load_digits`` reads; importing that takes over a second."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _select(
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
) -> LabelledImages:
    return LabelledImages(
        images=torch.from_numpy(pixels[chosen][:, None]),
        labels=torch.from_numpy(labels[chosen]),
        class_names=DIGIT_CLASSES,
    )
