"""Images in class folders: a site's own data, and CINIC-10."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from worker.data.classes import AgreedClasses
from worker.data.folder_scan import ScannedSplit, class_folders, scan
from worker.data.image_file import decode, one_limit
from worker.data.images import ImageShape, LabelledImages
from worker.errors import DataError

MAX_NAMED_FAULTS = 10

# Pillow releases the interpreter's lock while it decodes, which pays for photographs; threads that
# decode 32x32 images spend their time waiting for the lock (measured: 150 against 60 µs an image).
_THREADS_PAY_BYTES = 16 * 1024


def read_image_folder(
    data_dir: Path,
    image_shape: ImageShape,
    max_bytes: int | None = None,
    agreed: AgreedClasses | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of ``data_dir/train/<class>/…`` and ``data_dir/test/<class>/…``.

    A class folder may be empty (a site without an example of a class that other sites have), a
    split may not.

    Args:
        data_dir: folder with ``train`` and ``test``.
        image_shape: (C, H, W) that every image is resized to, C 1 (grey) or 3 (RGB).
        max_bytes: of a split's images at that size.
        agreed: the federation's classes, which the folders are mapped to; each split may lack some.
            None: the classes are the folders of ``train`` in alphabetical order, and ``test`` has
            the same.

    Raises:
        DataError: a folder is missing, unreadable or has no images, the classes are not those that
            are agreed or differ between the splits, the images would be too large, or some cannot
            be read: all of these are named, up to :data:`MAX_NAMED_FAULTS`.
    """
    train, test = scan(data_dir / "train"), scan(data_dir / "test")
    labels_of = [label_folders(split, agreed, train) for split in (train, test)]
    class_names = tuple(train.classes) if agreed is None else agreed.names
    for split in (train, test):
        _check_size(split, image_shape, max_bytes)
    faults = train.faults + test.faults
    with one_limit():
        read = [
            _read_split(split, labels, class_names, image_shape, faults)
            for split, labels in zip((train, test), labels_of, strict=True)
        ]
    _raise_faults(data_dir, faults)
    return read[0], read[1]


def find_classes(data_dir: Path) -> tuple[str, ...]:
    """Names of the class folders in ``data_dir/train``, in alphabetical order.

    Raises:
        DataError: the folder is missing or has no class folders.
    """
    return class_folders(data_dir / "train")


def all_class_folders(data_dir: Path) -> tuple[str, ...]:
    """Names of the class folders of both splits, in alphabetical order; none where there are none.

    For whoever does not know yet which classes a federation has.
    """
    names: set[str] = set()
    for split in ("train", "test"):
        with contextlib.suppress(DataError):  # said by whoever reads the split
            names.update(class_folders(data_dir / split))
    return tuple(sorted(names))


def label_folders(
    split: ScannedSplit, agreed: AgreedClasses | None, train: ScannedSplit
) -> list[int]:
    """The label of each class folder of a split.

    Raises:
        DataError: a folder is no agreed class, or without agreed classes no folder of ``train``.
    """
    if agreed is not None:
        return agreed.labels_of(tuple(split.classes), split.folder)
    if split.classes.keys() != train.classes.keys():
        raise DataError(
            f"{split.folder}: expected the class folders of {train.folder} "
            f"({', '.join(train.classes)}), found {', '.join(split.classes)}"
        )
    return list(range(len(split.classes)))


def _check_size(split: ScannedSplit, image_shape: ImageShape, max_bytes: int | None) -> None:
    count = sum(map(len, split.classes.values()))
    if count == 0:
        raise DataError(f"{split.folder}: expected images in its class folders, found none")
    needed = count * math.prod(image_shape)
    if max_bytes is not None and needed > max_bytes:
        raise DataError(
            f"{split.folder}: expected at most {max_bytes} bytes of images "
            f"(HYPERFL_MAX_MEMORY_BYTES), found {count} images, which at the model's size have "
            f"{needed}"
        )


def _read_split(
    split: ScannedSplit,
    labels_of_folders: Sequence[int],
    class_names: tuple[str, ...],
    image_shape: ImageShape,
    faults: list[str],
) -> LabelledImages:
    """The images in order of folders and files; what cannot be read is added to ``faults``."""
    paths = [path for files in split.classes.values() for path in files]
    labels = [
        label
        for label, files in zip(labels_of_folders, split.classes.values(), strict=True)
        for _ in files
    ]
    images = torch.empty((len(paths), *image_shape), dtype=torch.uint8)

    def decode_into_place(positions: Iterable[int]) -> None:
        for position in positions:
            try:
                images[position] = decode(paths[position], image_shape)
            except DataError as error:
                faults.append(str(error))

    mean_bytes = sum(path.stat().st_size for path in paths) / len(paths)
    num_threads = (os.cpu_count() or 1) if mean_bytes > _THREADS_PAY_BYTES else 1
    with ThreadPoolExecutor(num_threads) as pool:
        every_nth = (range(first, len(paths), num_threads) for first in range(num_threads))
        for _ in pool.map(decode_into_place, every_nth):
            pass
    return LabelledImages(
        images, torch.tensor(labels, dtype=torch.int64), class_names, split.left_out
    )


def _raise_faults(data_dir: Path, faults: Sequence[str]) -> None:
    """Raises DataError naming as many faults as a person reads at once, if there are any."""
    if not faults:
        return
    if len(faults) == 1:
        raise DataError(faults[0])
    named = "; ".join(
        fault.removeprefix(f"{data_dir}/") for fault in sorted(faults)[:MAX_NAMED_FAULTS]
    )
    rest = len(faults) - MAX_NAMED_FAULTS
    more = f"; and {rest} more, which `hyperfl worker check` lists" if rest > 0 else ""
    raise DataError(f"{data_dir}: {len(faults)} files or folders cannot be used: {named}{more}")
