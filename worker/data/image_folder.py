"""Images in class folders: a site's own data, and CINIC-10."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from worker.data.classes import AgreedClasses
from worker.data.file_splits import SPLITS, TEST, TRAIN, VALIDATION, FileSplits, read_splits
from worker.data.folder_scan import ScannedSplit, class_folders, scan
from worker.data.images import Dataset, ImageShape, LabelledImages, own_dataset
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError


def read_folder(source: DataSource, wanted: Wanted) -> Dataset:
    """A site's own images, in ``data_dir/SPLIT/CLASS/…``.

    A class folder may be empty (a site without an example of a class that other sites have), a
    split may not. Whatever classes the data has, where those are wanted, are the folders of all
    splits.

    Raises:
        DataError: a folder is missing, unreadable or has no images, the classes are not those that
            are wanted or differ between the splits, the images would be too large, or some cannot
            be read: as many of these as a person reads at once are named.
    """
    data_dir = source.data_dir or Path()
    if wanted.agreed is None and wanted.num_classes is None:
        wanted = replace(wanted, agreed=AgreedClasses(all_class_folders(data_dir)))
    elif wanted.agreed is None and (found := len(find_classes(data_dir))) != wanted.num_classes:
        raise DataError(f"{data_dir}: expected {wanted.num_classes} classes, found {found}")
    splits = read_splits(scan_folder(data_dir), wanted, data_dir, source.dicom_window)
    return own_dataset(source.dataset, splits, wanted.image_shape[0])


def read_class_folders(
    data_dir: Path, image_shape: ImageShape
) -> tuple[LabelledImages, LabelledImages]:
    """Train and test split of a public data set in class folders; raises as :func:`read_folder`."""
    splits = {name: scan(data_dir / name) for name in (TRAIN, TEST)}
    read = read_splits(splits, Wanted(image_shape), data_dir)
    return read[TRAIN], read[TEST]


def scan_folder(data_dir: Path) -> FileSplits:
    """What lies in ``train``, in ``test``, and in ``validation`` where there is such a folder.

    Raises:
        DataError: a split's folder is missing or unreadable, or has no class folders.
    """
    return {name: scan(data_dir / name) for name in split_folders(data_dir)}


def look_at_folder(data_dir: Path) -> FileSplits:
    """As :func:`scan_folder`; a split that cannot be looked at has that for a fault."""
    looked: dict[str, ScannedSplit] = {}
    for name in split_folders(data_dir):
        try:
            looked[name] = scan(data_dir / name)
        except DataError as error:
            looked[name] = ScannedSplit(data_dir / name, faults=[str(error)])
    return looked


def split_folders(data_dir: Path) -> tuple[str, ...]:
    """Names of the splits that a folder has or must have."""
    has_validation = (data_dir / VALIDATION).exists()
    return SPLITS if has_validation else (TRAIN, TEST)


def find_classes(data_dir: Path) -> tuple[str, ...]:
    """Names of the class folders in ``data_dir/train``, in alphabetical order.

    Raises:
        DataError: the folder is missing or has no class folders.
    """
    return class_folders(data_dir / TRAIN)


def all_class_folders(data_dir: Path) -> tuple[str, ...]:
    """Names of the class folders of all splits, in alphabetical order; none where there are none.

    For whoever does not know yet which classes a federation has.
    """
    names: set[str] = set()
    for split in split_folders(data_dir):
        with contextlib.suppress(DataError):  # said by whoever reads the split
            names.update(class_folders(data_dir / split))
    return tuple(sorted(names))
