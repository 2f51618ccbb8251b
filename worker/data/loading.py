"""Loading data sets, each once a process, and giving clients their part."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worker.data.cifar10 import CIFAR10_CLASSES, read_cifar10
from worker.data.classes import AgreedClasses
from worker.data.client_data import ClientData, Examples
from worker.data.client_split import split_for_client
from worker.data.digits import DIGIT_CLASSES, read_digits
from worker.data.idx import (
    EMNIST_CLASSES,
    FASHION_MNIST_CLASSES,
    read_emnist,
    read_fashion_mnist,
)
from worker.data.image_folder import all_class_folders, find_classes, read_image_folder
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
    class_names: tuple[str, ...]
    read: Callable[[Path], Splits]
    statistics: Statistics | None


_KNOWN_DATASETS = {
    "digits": _KnownDataset((1, 8, 8), DIGIT_CLASSES, lambda _: read_digits(), None),
    "fashion-mnist": _KnownDataset(
        (1, 28, 28), FASHION_MNIST_CLASSES, read_fashion_mnist, _MNIST_STATISTICS
    ),
    "emnist": _KnownDataset((1, 28, 28), EMNIST_CLASSES, read_emnist, _MNIST_STATISTICS),
    "cifar10": _KnownDataset(
        (3, 32, 32),
        CIFAR10_CLASSES,
        read_cifar10,
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
    "cinic10": _KnownDataset(
        (3, 32, 32),
        CIFAR10_CLASSES,
        lambda data_dir: read_image_folder(data_dir, (3, 32, 32)),
        ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
    ),
}
_Key = tuple[str, Path | None, ImageShape, tuple[str, ...] | None, tuple[tuple[str, str], ...]]
_SMALL_SHAPE = (3, 8, 8)
"""Keeps little of images that are read for their faults alone."""
_AUGMENTED_IN_THE_PAPER = frozenset({"cifar10", "cinic10"})


def natural_image_shape(dataset: str) -> ImageShape | None:
    """(C, H, W) of a data set's own images, or None for ``image-folder``, which has no one shape.

    Raises:
        DataError: no data set has this name.
    """
    return None if dataset == "image-folder" else _known(dataset).image_shape


def natural_class_names(dataset: str, data_dir: Path | None) -> tuple[str, ...]:
    """Names of a data set's classes by label; for ``image-folder`` those of the class folders.

    Raises:
        DataError: no data set has this name, or ``image-folder`` has no class folders.
    """
    if dataset != "image-folder":
        return _known(dataset).class_names
    if data_dir is None:
        raise DataError("image-folder: expected a data_dir whose class folders can be counted")
    return find_classes(data_dir)


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
        self._datasets: dict[_Key, Dataset] = {}
        self._lock = threading.Lock()

    def client_data(
        self,
        source: DataSource,
        image_shape: ImageShape,
        num_classes: int,
        class_names: tuple[str, ...] | None = None,
    ) -> ClientData:
        """One client's examples, in the shape the federation's model takes.

        Args:
            source: which data set and which part of it.
            image_shape: (C, H, W) of the model's input, C 1 (grey) or 3 (RGB).
            num_classes: classes of the model.
            class_names: that the federation agreed on, one for each label. The data set's own names
                are mapped to them, and may be fewer. None: the data set must have ``num_classes``
                classes, and nobody knows whether they are the other sites'.

        Raises:
            DataError: the data is missing, damaged, too small for the partition, or does not fit
                the model or the federation's classes.
        """
        if image_shape[0] not in (1, 3):
            raise DataError(
                f"{source.dataset}: expected a model of 1 or 3 channels, found {image_shape[0]}"
            )
        agreed = None if class_names is None else AgreedClasses(class_names, source.classes)
        if agreed is None:
            _check_number_of_classes(source, num_classes)
        dataset = self.dataset(source.dataset, source.data_dir, image_shape, agreed)
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
            left_out=Counter(dataset.train.left_out) + Counter(dataset.test.left_out),
        )

    def try_out(self, source: DataSource) -> ClientData:
        """Reads a client's data whole, before anybody says which model and classes it is for.

        Returns:
            The examples at a size of no model's, with the data set's own classes.

        Raises:
            DataError: the data is missing, damaged, or too small for the partition.
        """
        if source.dataset == "image-folder" and source.data_dir is not None:
            names = all_class_folders(source.data_dir)
        else:
            names = natural_class_names(source.dataset, source.data_dir)
        anything = source.model_copy(update={"classes": {}})
        shape = natural_image_shape(source.dataset) or _SMALL_SHAPE
        return self.client_data(anything, shape, len(names), names)

    def dataset(
        self,
        name: str,
        data_dir: Path | None,
        image_shape: ImageShape,
        agreed: AgreedClasses | None = None,
    ) -> Dataset:
        """A whole data set, no larger than ``image_shape``, with the agreed classes' labels.

        Raises:
            DataError: the data is missing or damaged, or has classes that are not agreed.
        """
        names = (None, ()) if agreed is None else (agreed.names, (*agreed.local_names.items(),))
        key = (name, data_dir.resolve() if data_dir else None, image_shape, *names)
        with self._lock:
            if key not in self._datasets:
                self._datasets[key] = _load(
                    name, data_dir or Path(), image_shape, self._max_bytes, agreed
                )
            return self._datasets[key]


def _check_number_of_classes(source: DataSource, num_classes: int) -> None:
    """For a federation whose classes have no names."""
    if source.classes:
        raise DataError("[clients.data.classes] is for a federation that has class_names")
    found = len(natural_class_names(source.dataset, source.data_dir))
    if found != num_classes:
        raise DataError(
            f"{source.data_dir or source.dataset}: expected {num_classes} classes, found {found}"
        )


def _known(dataset: str) -> _KnownDataset:
    if dataset not in _KNOWN_DATASETS:
        names = ", ".join([*_KNOWN_DATASETS, "image-folder"])
        raise DataError(f"expected a data set among {names}, found {dataset!r}")
    return _KNOWN_DATASETS[dataset]


def _load(
    name: str,
    data_dir: Path,
    image_shape: ImageShape,
    max_bytes: int | None,
    agreed: AgreedClasses | None,
) -> Dataset:
    if name == "image-folder":
        train, test = read_image_folder(data_dir, image_shape, max_bytes, agreed)
        mean, std = _GREY_STATISTICS if image_shape[0] == 1 else _IMAGENET_STATISTICS
        return Dataset(name, train, test, mean, std)
    known = _known(name)
    train, test = (
        replace(split, images=shrink(split.images, image_shape)) for split in known.read(data_dir)
    )
    if len(train.class_names) != len(known.class_names):
        raise DataError(
            f"{data_dir}: expected the {len(known.class_names)} classes of {name}, "
            f"found {len(train.class_names)}"
        )
    if agreed is not None:
        train, test = (agreed.relabel(split, name) for split in (train, test))
    # The known statistics of three channels say nothing about the spread of grey.
    turned_grey = train.images.shape[1] != known.image_shape[0]
    if known.statistics is None or turned_grey:
        mean, std = measure_mean_and_std(train.images)
    else:
        mean, std = known.statistics
    return Dataset(name, train, test, mean, std)
