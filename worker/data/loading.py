"""Loading data sets, each once a process, and giving clients their part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worker.data.cifar10 import read_cifar10
from worker.data.client_data import ClientData, Examples
from worker.data.client_split import split_for_client
from worker.data.digits import read_digits
from worker.data.idx import EMNIST_CLASSES, read_emnist, read_fashion_mnist
from worker.data.image_folder import find_classes, read_image_folder
from worker.data.images import Dataset, ImageShape, LabelledImages, measure_mean_and_std
from worker.data.resizing import shrink
from worker.data.source import DataSource
from worker.errors import DataError

Splits = tuple[LabelledImages, LabelledImages]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_MNIST_STATISTICS: Statistics = ((0.1307,), (0.3081,))
_IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY_STATISTICS: Statistics = ((0.5,), (0.5,))


@dataclass(frozen=True)
class _KnownDataset:
    """A public data set: its own shape, how to read it, and the statistics it is known by.

    ``statistics`` is None where they are measured from the training pixels.
    """

    image_shape: ImageShape
    num_classes: int
    read: Callable[[Path], Splits]
    statistics: Statistics | None


_KNOWN_DATASETS = {
    "digits": _KnownDataset((1, 8, 8), 10, lambda _: read_digits(), None),
    "fashion-mnist": _KnownDataset((1, 28, 28), 10, read_fashion_mnist, _MNIST_STATISTICS),
    "emnist": _KnownDataset((1, 28, 28), len(EMNIST_CLASSES), read_emnist, _MNIST_STATISTICS),
    "cifar10": _KnownDataset(
        (3, 32, 32),
        10,
        read_cifar10,
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
    "cinic10": _KnownDataset(
        (3, 32, 32),
        10,
        lambda data_dir: read_image_folder(data_dir, (3, 32, 32)),
        ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
    ),
}
_AUGMENTED_IN_THE_PAPER = frozenset({"cifar10", "cinic10"})


def natural_image_shape(dataset: str) -> ImageShape | None:
    """(C, H, W) of a data set's own images, or None for ``image-folder``, which has no one shape.

    Raises:
        DataError: no data set has this name.
    """
    return None if dataset == "image-folder" else _known(dataset).image_shape


def natural_num_classes(dataset: str, data_dir: Path | None) -> int:
    """Number of classes of a data set; for ``image-folder`` the class folders are counted.

    Raises:
        DataError: no data set has this name, or ``image-folder`` has no class folders.
    """
    if dataset != "image-folder":
        return _known(dataset).num_classes
    if data_dir is None:
        raise DataError("image-folder: expected a data_dir whose class folders can be counted")
    return len(find_classes(data_dir))


class DatasetCache:
    """Loads each data set once a process; its clients share the decoded images.

    Safe to use from several threads: a second one waits for the first one's load.
    """

    def __init__(
        self, pixel_statistics: Statistics | None = None, max_bytes: int | None = None
    ) -> None:
        """Start with nothing loaded.

        Args:
            pixel_statistics: mean and standard deviation per channel, in 0..1, to normalise by
                instead of the data set's own: a pretrained model's.
            max_bytes: of the images of a folder, once they have the model's size.
        """
        self._pixel_statistics = pixel_statistics
        self._max_bytes = max_bytes
        self._datasets: dict[tuple[str, Path | None, ImageShape], Dataset] = {}
        self._lock = threading.Lock()

    def client_data(
        self, source: DataSource, image_shape: ImageShape, num_classes: int
    ) -> ClientData:
        """One client's examples, in the shape the federation's model takes.

        Args:
            source: which data set and which part of it.
            image_shape: (C, H, W) of the model's input, C 1 (grey) or 3 (RGB).
            num_classes: classes of the model; the data set must have as many.

        Raises:
            DataError: the data is missing, damaged, too small for the partition, or does not fit
                the model.
        """
        if image_shape[0] not in (1, 3):
            raise DataError(
                f"{source.dataset}: expected a model of 1 or 3 channels, found {image_shape[0]}"
            )
        found_classes = natural_num_classes(source.dataset, source.data_dir)
        if found_classes != num_classes:
            raise DataError(
                f"{source.data_dir or source.dataset}: expected {num_classes} classes, "
                f"found {found_classes}"
            )
        dataset = self.dataset(source.dataset, source.data_dir, image_shape)
        mean, std = self._pixel_statistics or (dataset.mean, dataset.std)
        train, test = split_for_client(source, dataset)
        augment = source.augment
        if augment is None:
            own_shape = natural_image_shape(source.dataset) == image_shape
            augment = source.dataset in _AUGMENTED_IN_THE_PAPER and own_shape
        return ClientData(
            train=Examples(
                dataset.train,
                torch.from_numpy(train),
                mean=mean,
                std=std,
                image_shape=image_shape,
                augment=augment,
            ),
            test=Examples(
                dataset.test,
                torch.from_numpy(test),
                mean=mean,
                std=std,
                image_shape=image_shape,
                augment=False,
            ),
        )

    def dataset(self, name: str, data_dir: Path | None, image_shape: ImageShape) -> Dataset:
        """A whole data set, no larger than ``image_shape``.

        Raises:
            DataError: the data is missing or damaged.
        """
        key = (name, data_dir.resolve() if data_dir else None, image_shape)
        with self._lock:
            if key not in self._datasets:
                self._datasets[key] = _load(name, data_dir or Path(), image_shape, self._max_bytes)
            return self._datasets[key]


def _known(dataset: str) -> _KnownDataset:
    if dataset not in _KNOWN_DATASETS:
        names = ", ".join([*_KNOWN_DATASETS, "image-folder"])
        raise DataError(f"expected a data set among {names}, found {dataset!r}")
    return _KNOWN_DATASETS[dataset]


def _load(name: str, data_dir: Path, image_shape: ImageShape, max_bytes: int | None) -> Dataset:
    if name == "image-folder":
        train, test = read_image_folder(data_dir, image_shape, max_bytes)
        mean, std = _GREY_STATISTICS if image_shape[0] == 1 else _IMAGENET_STATISTICS
        return Dataset(name, train, test, mean, std)
    known = _known(name)
    train, test = (
        replace(split, images=shrink(split.images, image_shape)) for split in known.read(data_dir)
    )
    if len(train.class_names) != known.num_classes:
        raise DataError(
            f"{data_dir}: expected the {known.num_classes} classes of {name}, "
            f"found {len(train.class_names)}"
        )
    # The known statistics of three channels say nothing about the spread of grey.
    turned_grey = train.images.shape[1] != known.image_shape[0]
    if known.statistics is None or turned_grey:
        mean, std = measure_mean_and_std(train.images)
    else:
        mean, std = known.statistics
    return Dataset(name, train, test, mean, std)
