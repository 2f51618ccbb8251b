"""The public data sets, each with its own shape, classes and statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from worker.data.cifar10 import CIFAR10_CLASSES, find_cifar10, read_cifar10
from worker.data.digits import DIGIT_CLASSES, read_digits
from worker.data.idx import (
    EMNIST_CLASSES,
    FASHION_MNIST_CLASSES,
    find_emnist,
    find_fashion_mnist,
    read_emnist,
    read_fashion_mnist,
)
from worker.data.image_folder import find_classes, read_class_folders
from worker.data.images import (
    Dataset,
    ImageShape,
    LabelledImages,
    Statistics,
    measure_mean_and_std,
)
from worker.data.resizing import shrink
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError

_MNIST_STATISTICS: Statistics = ((0.1307,), (0.3081,))


@dataclass(frozen=True)
class PublicDataset:
    """A public data set.

    Attributes:
        image_shape: (C, H, W) of its own images.
        class_names: one for each label.
        read: gives its train and its test split from its folder.
        statistics: that it is known by; None where they are measured from the training pixels.
        find: raises DataError if a file or folder is missing from its folder, and reads none.
        is_augmented: whether the paper crops and flips its images at their own size.
    """

    image_shape: ImageShape
    class_names: tuple[str, ...]
    read: Callable[[Path], tuple[LabelledImages, LabelledImages]]
    statistics: Statistics | None
    find: Callable[[Path], object]
    is_augmented: bool = False


PUBLIC_DATASETS = {
    "digits": PublicDataset(
        (1, 8, 8), DIGIT_CLASSES, lambda _: read_digits(), None, lambda _: None
    ),
    "fashion-mnist": PublicDataset(
        (1, 28, 28),
        FASHION_MNIST_CLASSES,
        read_fashion_mnist,
        _MNIST_STATISTICS,
        find_fashion_mnist,
    ),
    "emnist": PublicDataset(
        (1, 28, 28), EMNIST_CLASSES, read_emnist, _MNIST_STATISTICS, find_emnist
    ),
    "cifar10": PublicDataset(
        (3, 32, 32),
        CIFAR10_CLASSES,
        read_cifar10,
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        find_cifar10,
        is_augmented=True,
    ),
    "cinic10": PublicDataset(
        (3, 32, 32),
        CIFAR10_CLASSES,
        lambda data_dir: read_class_folders(data_dir, (3, 32, 32)),
        ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
        find_classes,
        is_augmented=True,
    ),
}
"""By name."""


def find_public(dataset: str, data_dir: Path | None) -> None:
    """Looks for a data set's files without reading them; of other names it knows nothing.

    Raises:
        DataError: a file is missing.
    """
    if dataset in PUBLIC_DATASETS:
        PUBLIC_DATASETS[dataset].find(data_dir or Path())


def read_public(source: DataSource, wanted: Wanted) -> Dataset:
    """A whole public data set, no larger than the model's images, with the agreed classes' labels.

    Raises:
        DataError: files are missing or damaged, or the classes are not those that are wanted.
    """
    known, name = PUBLIC_DATASETS[source.dataset], source.dataset
    data_dir = source.data_dir or Path()
    if wanted.agreed is None and wanted.num_classes not in (None, len(known.class_names)):
        raise DataError(
            f"{source.data_dir or name}: expected {wanted.num_classes} classes, "
            f"found {len(known.class_names)}"
        )
    train, test = (
        replace(split, images=shrink(split.images, wanted.image_shape))
        for split in known.read(data_dir)
    )
    if len(train.class_names) != len(known.class_names):
        raise DataError(
            f"{data_dir}: expected the {len(known.class_names)} classes of {name}, "
            f"found {len(train.class_names)}"
        )
    if wanted.agreed is not None:
        train, test = (wanted.agreed.relabel(split, name) for split in (train, test))
    # The known statistics of three channels say nothing about the spread of grey.
    turned_grey = train.images.shape[1] != known.image_shape[0]
    if known.statistics is None or turned_grey:
        mean, std = measure_mean_and_std(train.images)
    else:
        mean, std = known.statistics
    return Dataset(name, train, test, mean, std)
