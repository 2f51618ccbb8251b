"""The rows of a site's table, whatever they are of: labels, splits, and groups that stay whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from worker.data.file_splits import SPLITS, TEST, TRAIN
from worker.data.held_out import hold_out
from worker.data.source import DataSource


@dataclass(frozen=True)
class TableRow:
    """One example of a table; text is without white space around it, and empty where none is.

    Attributes:
        number: where it stands: the line of a CSV, the row of a Parquet file from 1.
        label: the site's name of the class.
        split: as written; None without such a column.
        group: whose example it is; None without such a column.
    """

    number: int
    label: str
    split: str | None
    group: str | None


RowT = TypeVar("RowT", bound=TableRow)


def faults_of_empty_splits(table: Path, rows: Sequence[TableRow]) -> Iterator[str]:
    """A line for each split that is needed and has no row."""
    for name in (TRAIN, TEST):
        if not any(row.split == name for row in rows):
            yield f"{table}: expected rows of split {name}, found none"


def faults_of_splits(table: Path, rows: Sequence[TableRow], source: DataSource) -> Iterator[str]:
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


def with_drawn_split(table: Path, rows: Sequence[RowT], source: DataSource) -> list[RowT]:
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
