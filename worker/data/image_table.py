"""Image files that a table names: ``dataset = "table"``."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from worker.data.classes import AgreedClasses
from worker.data.file_splits import SPLITS, TEST, TRAIN, FileSplits, raise_faults, read_splits
from worker.data.folder_scan import ScannedSplit
from worker.data.held_out import hold_out
from worker.data.images import Dataset, own_dataset
from worker.data.source import DataSource
from worker.data.table_file import Row, read_rows
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
        faults = [*_faults_of_rows(table, folder, rows), *_faults_of_splits(table, rows, source)]
        if not faults:
            rows = _with_drawn_split(table, rows, source)
            faults = [
                f"{table}: expected rows of split {name}, found none"
                for name in (TRAIN, TEST)
                if not any(row.split == name for row in rows)
            ]
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


def _faults_of_splits(table: Path, rows: Sequence[Row], source: DataSource) -> Iterator[str]:
    """Whether splits are known, or are to be drawn, and keep groups together."""
    if rows[0].split is None:
        if source.test_fraction is None:
            yield f"{table}: expected a column split, or test_fraction in [clients.data]"
    elif source.test_fraction is not None:
        yield f"{table}: has a column split, so that test_fraction would draw another"
    else:
        for row in rows:
            if row.split not in SPLITS:
                where, known = f"{table}: row {row.number}", ", ".join(SPLITS)
                yield f"{where}: expected a split of {known}, found {row.split!r}"
    if rows[0].group is None:
        return
    splits_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if not row.group:
            yield f"{table}: row {row.number}: expected a group, found none"
        elif row.split is not None:
            splits_of[row.group][row.split] += 1
    for group, splits in splits_of.items():
        if len(splits) > 1:
            said = ", ".join(f"{count} in {split}" for split, count in splits.items())
            yield f"{table}: group {group} lies in more than one split: {said}"


def _with_drawn_split(table: Path, rows: Sequence[Row], source: DataSource) -> list[Row]:
    """The same rows with a split drawn for each, where the table has none."""
    if source.test_fraction is None:
        return list(rows)
    labels = np.unique([row.label for row in rows], return_inverse=True)[1].astype(np.int64)
    groups = None
    if rows[0].group is not None:
        named = np.unique([str(row.group) for row in rows], return_inverse=True)[1]
        groups = named.astype(np.int64)
    _, test = hold_out(labels, groups, source.test_fraction, source.seed, f"{table}: test_fraction")
    drawn = [replace(row, split=TRAIN) for row in rows]
    for place in test:
        drawn[place] = replace(drawn[place], split=TEST)
    return drawn
