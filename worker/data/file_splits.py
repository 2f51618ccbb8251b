"""Splits of image files, whoever says which file has which label, decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from worker.data.classes import AgreedClasses
from worker.data.dicom_file import Window
from worker.data.folder_scan import ScannedSplit
from worker.data.image_file import decode, one_limit
from worker.data.images import LabelledImages
from worker.data.wanted import Wanted
from worker.errors import DataError

TRAIN, TEST, VALIDATION = SPLITS = ("train", "test", "validation")
MAX_NAMED_FAULTS = 10

# Pillow releases the interpreter's lock while it decodes, which pays for photographs; threads that
# decode 32x32 images spend their time waiting for the lock (measured: 150 against 60 µs an image).
_THREADS_PAY_BYTES = 16 * 1024

FileSplits = Mapping[str, ScannedSplit]
"""``train``, ``test``, and ``validation`` where there is one, by name."""


def read_splits(
    splits: FileSplits,
    wanted: Wanted,
    where: os.PathLike[str],
    dicom_window: Window | None = None,
) -> dict[str, LabelledImages]:
    """The images of every split, in order of classes and files.

    Args:
        splits: what lies where. A class may have no file, a split as a whole must have some.
        wanted: shape, classes, and memory. Without agreed classes those of ``train`` are the
            classes, and the other splits have the same.
        where: the folder or file that is named where there is more than one fault.
        dicom_window: see :func:`worker.data.image_file.decode`.

    Raises:
        DataError: the classes are not those that are wanted, the images would be too large, or
            some cannot be read: all of these are named, up to :data:`MAX_NAMED_FAULTS`.
    """
    train = splits[TRAIN]
    labels_of = {name: label_classes(split, wanted.agreed, train) for name, split in splits.items()}
    class_names = tuple(train.classes) if wanted.agreed is None else wanted.agreed.names
    for split in splits.values():
        _check_size(split, wanted)
    faults = [fault for split in splits.values() for fault in split.faults]
    with one_limit():
        read = {
            name: _read_split(split, labels_of[name], class_names, wanted, dicom_window, faults)
            for name, split in splits.items()
        }
    raise_faults(where, sorted(faults))
    return read


def label_classes(
    split: ScannedSplit, agreed: AgreedClasses | None, train: ScannedSplit
) -> list[int]:
    """The label of each class of a split.

    Raises:
        DataError: a class is not agreed, or without agreed classes none of ``train``.
    """
    if agreed is not None:
        return agreed.labels_of(tuple(split.classes), split.folder)
    if split.classes.keys() != train.classes.keys():
        raise DataError(
            f"{split.folder}: expected the class folders of {train.folder} "
            f"({', '.join(train.classes)}), found {', '.join(split.classes)}"
        )
    return list(range(len(split.classes)))


def raise_faults(
    where: os.PathLike[str], faults: Sequence[str], what: str = "files or folders"
) -> None:
    """Raises DataError naming as many faults as a person reads at once, if there are any."""
    if not faults:
        return
    if len(faults) == 1:
        raise DataError(faults[0])
    named = "; ".join(
        fault.removeprefix(f"{where}/").removeprefix(f"{where}: ")
        for fault in faults[:MAX_NAMED_FAULTS]
    )
    rest = len(faults) - MAX_NAMED_FAULTS
    more = f"; and {rest} more, which `hyperfl worker check` lists" if rest > 0 else ""
    raise DataError(f"{where}: {len(faults)} {what} cannot be used: {named}{more}")


def _check_size(split: ScannedSplit, wanted: Wanted) -> None:
    count = sum(map(len, split.classes.values()))
    if count == 0:
        raise DataError(f"{split.folder}: expected images in its class folders, found none")
    needed = count * math.prod(wanted.image_shape)
    if wanted.max_bytes is not None and needed > wanted.max_bytes:
        raise DataError(
            f"{split.folder}: expected at most {wanted.max_bytes} bytes of images "
            f"(HYPERFL_MAX_MEMORY_BYTES), found {count} images, which at the model's size have "
            f"{needed}"
        )


def _read_split(
    split: ScannedSplit,
    labels_of_classes: Sequence[int],
    class_names: tuple[str, ...],
    wanted: Wanted,
    dicom_window: Window | None,
    faults: list[str],
) -> LabelledImages:
    """The images in order of classes and files; what cannot be read is added to ``faults``."""
    paths = [path for files in split.classes.values() for path in files]
    labels = [
        label
        for label, files in zip(labels_of_classes, split.classes.values(), strict=True)
        for _ in files
    ]
    images = torch.empty((len(paths), *wanted.image_shape), dtype=torch.uint8)

    def decode_into_place(positions: Iterable[int]) -> None:
        for position in positions:
            try:
                images[position] = decode(paths[position], wanted.image_shape, dicom_window)
            except DataError as error:
                faults.append(str(error))

    mean_bytes = sum(path.stat().st_size for path in paths) / len(paths)
    num_threads = (os.cpu_count() or 1) if mean_bytes > _THREADS_PAY_BYTES else 1
    with ThreadPoolExecutor(num_threads) as pool:
        every_nth = (range(first, len(paths), num_threads) for first in range(num_threads))
        for _ in pool.map(decode_into_place, every_nth):
            pass
    groups = None
    if split.group_of:
        _, numbers = np.unique([split.group_of[path] for path in paths], return_inverse=True)
        groups = torch.from_numpy(numbers.astype(np.int64))
    return LabelledImages(
        images, torch.tensor(labels, dtype=torch.int64), class_names, split.left_out, groups
    )
