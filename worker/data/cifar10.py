"""CIFAR-10, read by torchvision from files that are already there."""

from __future__ import annotations

from pathlib import Path

import torch

from worker.data.images import LabelledImages
from worker.errors import DataError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""CINIC-10 has the same."""
_FOLDER = "cifar-10-batches-py"


def read_cifar10(data_dir: Path) -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of CIFAR-10 from ``data_dir/cifar-10-batches-py``.

    Raises:
        DataError: the files are missing, or their checksums are not those of CIFAR-10.
    """
    return _read_split(data_dir, train=True), _read_split(data_dir, train=False)


def find_cifar10(data_dir: Path) -> None:
    """Raises DataError if its folder is missing; what is in it is not read."""
    if not (data_dir / _FOLDER).is_dir():
        raise _missing(data_dir)


def _read_split(data_dir: Path, *, train: bool) -> LabelledImages:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415 - slow to import

    try:
        split = CIFAR10(data_dir, train=train, download=False)
    except (RuntimeError, OSError) as error:
        raise _missing(data_dir) from error
    return LabelledImages(
        images=torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(split.targets, dtype=torch.int64),
        class_names=tuple(split.classes),
    )


def _missing(data_dir: Path) -> DataError:
    return DataError(
        f"{data_dir / _FOLDER}: expected the unpacked python version of CIFAR-10 "
        "(cifar-10-python.tar.gz), found it missing or with wrong checksums"
    )
