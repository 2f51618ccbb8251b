"""A site's table, a CSV or Parquet file: its columns, and the rows of one that names images."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.terminal.text_files import UnreadableText, read_text
from worker.data.table_rows import TableRow
from worker.errors import DataError

FILE, LABEL, SPLIT, GROUP = COLUMNS = ("file", "label", "split", "group")
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})


Records = Iterator[tuple[int, dict[str, Any]]]
"""Where each row stands, the line of a CSV or the row of a Parquet file from 1; and its values."""
Choose = Callable[[Sequence[str]], Collection[str]]
"""Which of a table's columns are read. Raises DataError if they are not what they should be."""


@dataclass(frozen=True)
class Row(TableRow):
    """One image of a table.

    Attributes:
        file: as written.
    """

    file: str


def read_table_file(table: Path, choose: Choose) -> tuple[Sequence[str], Records]:
    """The columns of a CSV file with commas, or of a Parquet file by its suffix; and its rows.

    Raises:
        DataError: the file cannot be read; for a CSV also while its rows are taken.
    """
    if not table.is_file():
        raise DataError(f"{table}: expected a CSV or Parquet file, found none")
    is_parquet = table.suffix.lower() in PARQUET_SUFFIXES
    return (_read_parquet if is_parquet else _read_csv)(table, choose)


def read_rows(table: Path) -> list[Row]:
    """All rows of a CSV file with commas, or of a Parquet file by its suffix.

    Other columns than :data:`COLUMNS` are passed over.

    Raises:
        DataError: the file cannot be read, or lacks ``file`` or ``label``; a column's name is a
            known one but for case or white space, or there twice.
    """

    def choose(columns: Sequence[str]) -> Collection[str]:
        _check_columns(table, columns)
        return [name for name in COLUMNS if name in columns]

    columns, records = read_table_file(table, choose)
    rows = [
        Row(
            number=number,
            file=_text(record[FILE]),
            label=_text(record[LABEL]),
            split=_text(record[SPLIT]) if SPLIT in columns else None,
            group=_text(record[GROUP]) if GROUP in columns else None,
        )
        for number, record in records
    ]
    if not rows:
        raise DataError(f"{table}: expected rows, found none")
    return rows


def _text(value: object) -> str:
    # What a Parquet file lacks is None, or not a number where its column is of numbers.
    return "" if value is None or value != value else str(value).strip()  # noqa: PLR0124


def _check_columns(table: Path, columns: Sequence[str]) -> None:
    for name in columns:
        meant = name.strip().casefold()
        if meant in COLUMNS and (name != meant or columns.count(name) > 1):
            raise DataError(f"{table}: expected a column {meant!r} once, found {list(columns)}")
    for name in (FILE, LABEL):
        if name not in columns:
            raise DataError(f"{table}: expected columns file and label, found {list(columns)}")


def _read_csv(table: Path, choose: Choose) -> tuple[Sequence[str], Records]:
    try:
        text = read_text(table)
    except UnreadableText as error:
        raise DataError(str(error)) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = _fieldnames(table, reader)
    choose(columns)
    return columns, _csv_records(table, reader)


def _fieldnames(table: Path, reader: csv.DictReader[str]) -> Sequence[str]:
    try:
        return reader.fieldnames or ()
    except csv.Error as error:
        raise DataError(f"{table}: line {reader.line_num + 1}: {error}") from error


def _csv_records(table: Path, reader: csv.DictReader[str]) -> Records:
    try:
        for record in reader:
            # What has no column of its own is under None; what is missing has the value None.
            if None in record:
                raise DataError(
                    f"{table}: line {reader.line_num}: expected {len(reader.fieldnames or ())} "
                    "values, found more; text with a comma needs quotes around it"
                )
            yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"{table}: line {reader.line_num + 1}: {error}") from error


def _read_parquet(table: Path, choose: Choose) -> tuple[Sequence[str], Records]:
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{table}: Parquet needs {error.name}: pip install 'hyperfl[worker,parquet]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(table) as opened:
            columns = list(opened.schema_arrow.names)
            records = opened.read(columns=list(choose(columns))).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{table}: expected Parquet, cannot read it: {reason}") from error
    return columns, iter(enumerate(records, start=1))
