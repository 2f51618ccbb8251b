"""Rows of features in a table: ``dataset = "features"``, a CSV or Parquet file."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shared.federation.class_names import normal_form
from shared.federation.features import RESERVED_NAMES, Feature
from worker.data.agreed_features import AgreedFeatures
from worker.data.classes import AgreedClasses
from worker.data.file_splits import MAX_NAMED_FAULTS, SPLITS, raise_faults
from worker.data.images import Dataset, LabelledImages, own_dataset
from worker.data.own_arrays import check_size
from worker.data.own_rows import LARGEST_NUMBER
from worker.data.source import DataSource
from worker.data.table_file import read_table_file
from worker.data.table_rows import (
    TableRow,
    faults_of_empty_splits,
    faults_of_splits,
    with_drawn_split,
)
from worker.data.wanted import Wanted
from worker.errors import DataError

LABEL, SPLIT, GROUP = RESERVED_NAMES
_MISSING = frozenset({"", "na", "n/a", "nan", "null"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(eq=False)
class FeatureTable:
    """What lies in a table.

    Attributes:
        rows: labels, splits and groups.
        values: float32, (N, F), as :mod:`worker.data.row_scaling` takes them.
        faults: one line for each thing that cannot be used; then the rest may be incomplete.
    """

    rows: list[TableRow] = field(default_factory=list)
    values: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    faults: list[str] = field(default_factory=list)


def read_feature_table(source: DataSource, wanted: Wanted) -> Dataset:
    """A site's own rows, as its table says.

    Raises:
        DataError: the table cannot be used, or the classes or columns are not those that are
            wanted: as many faults as a person reads at once are named.
    """
    table = _table(source)
    found = look_at_feature_table(source, wanted)
    raise_faults(table, found.faults, "values, rows or columns")
    names, labels = np.unique([row.label for row in found.rows], return_inverse=True)
    agreed = wanted.agreed
    if agreed is None:
        if wanted.num_classes not in (None, len(names)):
            raise DataError(
                f"{table}: expected {wanted.num_classes} classes, found {len(names)}: "
                f"{', '.join(names)}"
            )
        agreed = AgreedClasses(tuple(names.tolist()))
    groups = None
    if found.rows[0].group is not None:
        groups = np.unique([str(row.group) for row in found.rows], return_inverse=True)[1]
    splits = {}
    for name in SPLITS:
        own = np.flatnonzero([row.split == name for row in found.rows])
        if not own.size:
            continue
        check_size(f"{table}: {name}", len(own), found.values.shape[1:], wanted)
        split = LabelledImages(
            torch.from_numpy(found.values[own]),
            torch.from_numpy(labels[own].astype(np.int64)),
            tuple(names.tolist()),
            groups=None if groups is None else torch.from_numpy(groups[own].astype(np.int64)),
        )
        splits[name] = agreed.relabel(split, table)
    return own_dataset(source.dataset, splits, 1)


def look_at_feature_table(source: DataSource, wanted: Wanted) -> FeatureTable:
    """The whole table; what is wrong with it is a fault, and no error."""
    table = _table(source)
    try:
        found = _read(table, _features(table, wanted), source, is_labelled=True)
        rows = found.rows
        if rows and not found.faults:
            found.faults += [
                *_faults_of_labels(table, rows),
                *faults_of_splits(table, rows, source),
            ]
        if rows and not found.faults:
            rows = with_drawn_split(table, rows, source)
            return replace(found, rows=rows, faults=[*faults_of_empty_splits(table, rows)])
    except DataError as error:
        return FeatureTable(faults=[str(error)])
    return found


def read_unlabelled(
    table: Path, wanted: Wanted, source: DataSource
) -> tuple[torch.Tensor, list[int]]:
    """Rows to classify, float32 (N, F), and where each stands.

    The table has the columns of the client's own; label, split and group are passed over.

    Raises:
        DataError: as :func:`read_feature_table`.
    """
    found = _read(table, _features(table, wanted), source, is_labelled=False)
    raise_faults(table, found.faults, "values, rows or columns")
    return torch.from_numpy(found.values), [row.number for row in found.rows]


def _table(source: DataSource) -> Path:
    return source.table_file or Path()


def _features(table: Path, wanted: Wanted) -> AgreedFeatures | None:
    """What is wanted; None before a federation is known: then any column may be there."""
    if wanted.features is not None and not wanted.features.are_named:
        raise DataError(
            f"{table}: has columns with names, and the federation names no features; it needs "
            "--features of `hyperfl worker specify`"
        )
    return wanted.features


def _read(
    table: Path, agreed: AgreedFeatures | None, source: DataSource, *, is_labelled: bool
) -> FeatureTable:
    places: dict[str, int] = {}
    all_columns: list[str] = []

    def choose(columns: Sequence[str]) -> Collection[str]:
        all_columns[:] = columns
        places.update(_places(table, columns, agreed, source))
        if is_labelled and LABEL not in places:
            raise DataError(
                f"{table}: expected a column label, found {', '.join(map(repr, columns))}; say in "
                f'[clients.data.features] which column it is: NAME = "{LABEL}"'
            )
        return [columns[place] for place in places.values()]

    features = () if agreed is None else agreed.features
    _, records = read_table_file(table, choose)
    column_of = {name: all_columns[place] for name, place in places.items()}
    rows: list[TableRow] = []
    values, faults = array("f"), _ValueFaults(table)
    parsers = [(column_of[feature.name], _Parser(feature)) for feature in features]
    for number, record in records:
        told = {name: _text(record[column_of[name]]) for name in RESERVED_NAMES if name in places}
        rows.append(TableRow(number, told.get(LABEL, ""), told.get(SPLIT), told.get(GROUP)))
        for column, parser in parsers:
            try:
                values.append(parser.value(record[column]))
            except ValueError as error:
                values.append(math.nan)
                faults.add(number, column, str(error))
    if not rows:
        raise DataError(f"{table}: expected rows, found none")
    stored = np.array(values, np.float32).reshape(len(rows), len(features))
    return FeatureTable(rows, stored, [*faults])


def _places(
    table: Path, columns: Sequence[str], agreed: AgreedFeatures | None, source: DataSource
) -> dict[str, int]:
    """Where the columns that are read lie, by the federation's name of each."""
    if agreed is None:  # whatever the features are, labels and splits are looked at
        meant = {normal_form(ours): name for ours, name in source.features.items()}
        named = [meant.get(normal_form(name.strip()), name.strip()) for name in columns]
        return {name: named.index(name) for name in RESERVED_NAMES if name in named}
    places = agreed.places_of(columns, table, (*RESERVED_NAMES, *source.ignored_columns))
    read = {*agreed.names, *RESERVED_NAMES} - set(source.ignored_columns)
    return {name: place for name, place in places.items() if name in read}


class _Parser:
    """From a table's values to those of one feature."""

    def __init__(self, feature: Feature) -> None:
        self._places: Mapping[str, int] | None = None
        if feature.categories is not None:
            self._places = {name: place for place, name in enumerate(feature.categories)}

    def value(self, given: Any) -> float:
        """Not a number where it is missing. Raises ValueError, saying what was expected."""
        text = _text(given)
        if self._places is not None:
            if not text:
                return math.nan
            if (place := self._places.get(normal_form(text))) is None:
                raise ValueError(
                    f"expected one of its categories {', '.join(self._places)}, found {text!r}"
                )
            return float(place)
        if isinstance(given, bool):
            return float(given)
        if text.casefold() in _MISSING:
            return math.nan
        if _NUMBER.fullmatch(text) is None:
            raise ValueError(f"expected a number, found {text!r}")
        number = float(text)
        if not abs(number) <= LARGEST_NUMBER:
            raise ValueError(f"expected a number of at most {LARGEST_NUMBER:g}, found {text}")
        return number


class _ValueFaults:
    """Lines about values that cannot be used: the first of each column, and how many there are."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._named: defaultdict[str, list[str]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    def add(self, number: int, column: str, message: str) -> None:
        self._counts[column] += 1
        if len(self._named[column]) < MAX_NAMED_FAULTS:
            self._named[column].append(f"{self._table}: row {number}: column {column}: {message}")

    def __iter__(self) -> Iterator[str]:
        for column, named in self._named.items():
            yield from named
            if (rest := self._counts[column] - len(named)) > 0:
                yield f"{self._table}: column {column}: and {rest} more such values"


def _faults_of_labels(table: Path, rows: Sequence[TableRow]) -> Iterator[str]:
    for row in rows:
        if not row.label:
            yield f"{table}: row {row.number}: expected a label, found none"


def _text(value: Any) -> str:
    """Without white space around it.

    A Parquet file has whole numbers as floating point where others are missing: these are written
    as what they are.
    """
    if value is None or value != value:  # noqa: PLR0124 - not a number
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value).strip()
