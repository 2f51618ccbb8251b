"""Image files that a table names: ``dataset = "table"``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from worker.data.classes import AgreedClasses
from worker.data.file_splits import SPLITS, TRAIN, FileSplits, raise_faults, read_splits
from worker.data.folder_scan import ScannedSplit
from worker.data.images import Dataset, own_dataset
from worker.data.source import DataSource
from worker.data.table_file import Row, read_rows
from worker.data.table_rows import faults_of_empty_splits, faults_of_splits, with_drawn_split
from worker.data.wanted import Wanted
from worker.errors import DataError


def read_table(source: DataSource, wanted: Wanted) -> Dataset:
    """A site's own images, as its table says.

    Raises:
        DataError: the table cannot be used, an image cannot be read, or the classes are not those
            that are wanted: as many faults as a person reads at once are named.
    """
    splits = look_at_table(source)
    raise_faults(_table(source), splits[TRAIN].faults, "rows")
    names = tuple(splits[TRAIN].classes)
    if wanted.agreed is None:
        if wanted.num_classes not in (None, len(names)):
            raise DataError(
                f"{_table(source)}: expected {wanted.num_classes} classes, found {len(names)}: "
                f"{', '.join(names)}"
            )
        wanted = replace(wanted, agreed=AgreedClasses(names))
    read = read_splits(splits, wanted, source.data_dir or Path(), source.dicom_window)
    return own_dataset(source.dataset, read, wanted.image_shape[0])


def look_at_table(source: DataSource) -> FileSplits:
    """Which files the table gives each split; what is wrong with it is a fault, and no error.

    Every split has the labels of all of them as classes. A file is under the folder ``data_dir``,
    and named by one row alone. The rows of one group are of one split.
    """
    table, folder = _table(source), source.data_dir or Path()
    try:
        rows = read_rows(table)
        faults = [*_faults_of_rows(table, folder, rows), *faults_of_splits(table, rows, source)]
        if not faults:
            rows = with_drawn_split(table, rows, source)
            faults = [*faults_of_empty_splits(table, rows)]
    except DataError as error:
        faults = [str(error)]
    if faults:
        return {TRAIN: ScannedSplit(table, faults=faults)}
    return _files_of(table, folder, rows)


def _files_of(table: Path, folder: Path, rows: Sequence[Row]) -> FileSplits:
    labels = sorted({row.label for row in rows})
    present = [name for name in SPLITS if any(row.split == name for row in rows)]
    splits = {name: ScannedSplit(table, {label: [] for label in labels}) for name in present}
    for row in rows:
        split, path = splits[row.split or TRAIN], folder / row.file
        split.classes[row.label].append(path)
        if row.group is not None:
            split.group_of[path] = row.group
    return splits


def _table(source: DataSource) -> Path:
    return source.table_file or Path()


def _faults_of_rows(table: Path, folder: Path, rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with single rows, and with two that name the same file."""
    first: dict[tuple[int, int], Row] = {}
    for row in rows:
        where = f"{table}: row {row.number}"
        if not row.file or not row.label:
            yield f"{where}: expected a file and a label, found {row.file!r} and {row.label!r}"
            continue
        if _is_absolute(row.file):
            yield f"{where}: expected a path that begins at {folder}, found {row.file}"
            continue
        if Path(os.path.normpath(row.file)).parts[0] == os.pardir:
            yield f"{where}: {row.file} is outside of {folder}"
            continue
        try:
            status = (folder / row.file).stat()
            is_file = (folder / row.file).is_file()
        except (OSError, ValueError):  # a name that no file can have, too
            is_file = False
        if not is_file:
            yield f"{where}: there is no file {row.file} in {folder}"
            continue
        earlier = first.setdefault((status.st_dev, status.st_ino), row)
        if earlier is not row:
            yield f"{where}: {row.file} is the file of row {earlier.number}: it would count twice"


def _is_absolute(file: str) -> bool:
    return PurePosixPath(file).is_absolute() or bool(PureWindowsPath(file).drive)
