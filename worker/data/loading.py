"""Loading data sets, each once a process, and giving clients their part."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from shared.federation.features import Feature
from worker.data.agreed_features import AgreedFeatures
from worker.data.arrays_file import read_arrays
from worker.data.classes import AgreedClasses
from worker.data.client_data import ClientData, Examples
from worker.data.client_split import split_for_client
from worker.data.feature_table import read_feature_table
from worker.data.file_splits import FileSplits
from worker.data.held_out import hold_out
from worker.data.image_folder import find_classes, look_at_folder, read_folder
from worker.data.image_table import look_at_table, read_table
from worker.data.images import Dataset, ImageShape, LabelledImages, Statistics
from worker.data.own_function import read_function
from worker.data.own_rows import features_of
from worker.data.partitions import IntArray
from worker.data.public_datasets import PUBLIC_DATASETS, PublicDataset, read_public
from worker.data.row_scaling import measured_scaling
from worker.data.scaling import PixelScaling, Scaling
from worker.data.source import ROW_KINDS, DataSource, has_rows, is_function
from worker.data.wanted import Wanted
from worker.errors import DataError

Reader = Callable[[DataSource, Wanted], Dataset]
"""Reads a whole data set for what a federation wants. Raises DataError if it cannot be used."""

_OWN_READERS: dict[str, Reader] = {
    "image-folder": read_folder,
    "table": read_table,
    "arrays": read_arrays,
    "features": read_feature_table,
}
"""By kind of a site's own data."""
TRIED_OUT = Wanted((3, 8, 8))
"""Keeps little of images that are read for their faults alone, before a federation is known."""


def reader_of(dataset: str) -> Reader:
    """What reads a data set of this name."""
    if is_function(dataset):
        return read_function
    return _OWN_READERS.get(dataset, read_public)


def look_at_files(source: DataSource) -> FileSplits | None:
    """Which image files a site's own data has, and what is wrong with them; None without files.

    What cannot be looked at is a fault, and no error.
    """
    if source.dataset == "image-folder":
        return look_at_folder(source.data_dir or Path())
    return look_at_table(source) if source.dataset == "table" else None


def natural_image_shape(dataset: str) -> ImageShape | None:
    """(C, H, W) of a data set's own images, or None for ``image-folder``, which has no one shape.

    Raises:
        DataError: no data set has this name.
    """
    return None if dataset == "image-folder" else _public(dataset).image_shape


def natural_class_names(dataset: str, data_dir: Path | None) -> tuple[str, ...]:
    """Names of a data set's classes by label; for ``image-folder`` those of the class folders.

    Raises:
        DataError: no data set has this name, or ``image-folder`` has no class folders.
    """
    if dataset != "image-folder":
        return _public(dataset).class_names
    if data_dir is None:
        raise DataError("image-folder: expected a data_dir whose class folders can be counted")
    return find_classes(data_dir)


def _public(dataset: str) -> PublicDataset:
    if dataset not in PUBLIC_DATASETS:
        names = ", ".join([*PUBLIC_DATASETS, "image-folder"])
        raise DataError(f"expected a data set among {names}, found {dataset!r}")
    return PUBLIC_DATASETS[dataset]


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
            max_bytes: of the images of a site's own split, once they have the model's size.
        """
        self._pixel_statistics = pixel_statistics
        self._max_bytes = max_bytes
        self._datasets: dict[tuple[str, str], Dataset] = {}
        self._lock = threading.Lock()

    def client_data(
        self,
        source: DataSource,
        image_shape: ImageShape,
        num_classes: int,
        class_names: tuple[str, ...] | None = None,
        features: tuple[Feature, ...] | None = None,
    ) -> ClientData:
        """One client's examples, in the shape the federation's model takes.

        Args:
            source: which data set and which part of it.
            image_shape: (C, H, W) of the model's input, C 1 (grey) or 3 (RGB); or (W,) of a model
                that takes rows of features.
            num_classes: classes of the model.
            class_names: that the federation agreed on, one for each label. The data set's own names
                are mapped to them, and may be fewer. None: the data set must have ``num_classes``
                classes, and nobody knows whether they are the other sites'.
            features: that the federation agreed on, which the data's own columns are mapped to.
                None: it takes images, or numbers that nobody has named.

        Raises:
            DataError: the data is missing, damaged, too small for the partition, or does not fit
                the model or the federation's classes.
        """
        return self._part(
            source, self.wanted(source, image_shape, num_classes, class_names, features)
        )

    def wanted(
        self,
        source: DataSource,
        image_shape: ImageShape,
        num_classes: int,
        class_names: tuple[str, ...] | None,
        features: tuple[Feature, ...] | None,
    ) -> Wanted:
        """What a federation wants of a client's data; arguments and errors of client_data."""
        check_kind(source.dataset, image_shape)
        if source.classes and class_names is None:
            raise DataError("[clients.data.classes] is for a federation that has class_names")
        if source.features and features is None:
            raise DataError("[clients.data.features] is for a federation that has features")
        rows = None
        if features is not None:
            rows = AgreedFeatures(features, source.features)
        elif len(image_shape) == 1:
            rows = AgreedFeatures.unnamed(image_shape[0])
        named = None if class_names is None else AgreedClasses(class_names, source.classes)
        return Wanted(
            image_shape,
            named,
            num_classes=num_classes if named is None else None,
            max_bytes=self._max_bytes,
            features=rows,
        )

    def try_out(self, source: DataSource) -> ClientData:
        """Reads a client's data whole, before anybody says which model and classes it is for.

        Returns:
            The examples at a size of no model's, with the data set's own classes.

        Raises:
            DataError: the data is missing, damaged, or too small for the partition.
        """
        public = PUBLIC_DATASETS.get(source.dataset)
        shape = TRIED_OUT.image_shape if public is None else public.image_shape
        anything = source.model_copy(update={"classes": {}})
        return self._part(anything, Wanted(shape, max_bytes=self._max_bytes))

    def dataset(self, source: DataSource, wanted: Wanted) -> Dataset:
        """A whole data set, whatever the part that ``source`` names, no larger than is wanted.

        Raises:
            DataError: the data is missing or damaged, or has other classes than are wanted.
        """
        whole = source.of_whole()
        key = (whole.model_dump_json(), repr(wanted))
        with self._lock:
            if key not in self._datasets:
                self._datasets[key] = reader_of(source.dataset)(whole, wanted)
            return self._datasets[key]

    def _part(self, source: DataSource, wanted: Wanted) -> ClientData:
        dataset = self.dataset(source, wanted)
        train, test = split_for_client(source, dataset)
        train, validation = _held_for_validation(source, dataset, train)
        augment = source.augment
        if augment is None:
            public = PUBLIC_DATASETS.get(source.dataset)
            is_own_size = public is not None and public.image_shape == wanted.image_shape
            augment = public is not None and public.is_augmented and is_own_size

        scaling = self._scaling(dataset, train, wanted)

        def examples(split: LabelledImages, positions: IntArray, *, augment: bool) -> Examples:
            return Examples(split, torch.from_numpy(positions), scaling, augment=augment)

        held = None
        if validation is not None:
            held = examples(dataset.train, validation, augment=False)
        elif dataset.validation is not None:
            every = np.arange(len(dataset.validation.labels))
            held = examples(dataset.validation, every, augment=False)
        left_out = sum((Counter(split.left_out) for split in dataset.splits), Counter())
        return ClientData(
            train=examples(dataset.train, train, augment=augment),
            test=examples(dataset.test, test, augment=False),
            left_out=left_out,
            validation=held,
        )

    def _scaling(self, dataset: Dataset, train: IntArray, wanted: Wanted) -> Scaling:
        if dataset.train.has_rows:
            rows = dataset.train.images.numpy()
            return measured_scaling(features_of(wanted, rows.shape[1]).features, rows[train])
        mean, std = self._pixel_statistics or (dataset.mean, dataset.std)
        return PixelScaling(mean, std, wanted.image_shape)


def check_kind(dataset: str, image_shape: ImageShape) -> None:
    """Raises DataError unless a data set of this name can have what such a model takes."""
    takes_rows = len(image_shape) == 1
    if not takes_rows and dataset == "features":
        raise DataError("features: are rows, and the federation's model takes images")
    if not takes_rows and image_shape[0] not in (1, 3):
        raise DataError(f"{dataset}: expected a model of 1 or 3 channels, found {image_shape[0]}")
    if takes_rows and not has_rows(dataset):
        raise DataError(
            f"{dataset}: has images, and the federation's model takes rows of features: "
            f"expected {' or '.join(ROW_KINDS)}, or code of your own"
        )


def _held_for_validation(
    source: DataSource, dataset: Dataset, train: IntArray
) -> tuple[IntArray, IntArray | None]:
    """A client's training examples without its validation split, and that, if it is drawn.

    Raises:
        DataError: there are too few, or the data set has a validation split and cannot have both.
    """
    if dataset.validation is not None and source.partition != "none":
        raise DataError(
            f"partition {source.partition} divides train and test alone: leave the validation "
            "split out, and write validation_fraction"
        )
    if source.validation_fraction is None:
        return train, None
    if dataset.validation is not None:
        raise DataError(
            f"{source.dataset}: has a validation split, so that validation_fraction would draw "
            "another"
        )
    groups = None if dataset.train.groups is None else dataset.train.groups.numpy()[train]
    labels = dataset.train.labels.numpy()[train]
    stay, held = hold_out(
        labels,
        groups,
        source.validation_fraction,
        [source.seed, source.client_index],
        f"{source.dataset}: validation_fraction",
    )
    return train[stay], train[held]
