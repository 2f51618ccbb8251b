"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8x8."""

from __future__ import annotations

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
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    digits = load_digits()
    labels = np.asarray(digits.target, dtype=np.int64)
    pixels = np.round(np.asarray(digits.images) * (255 / 16)).astype(np.uint8)
    place_in_class = np.empty_like(labels)
    for label in range(10):
        members = labels == label
        place_in_class[members] = np.arange(members.sum())
    is_test = place_in_class % _TEST_EVERY == _TEST_EVERY - 1
    return _select(pixels, labels, ~is_test), _select(pixels, labels, is_test)


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
