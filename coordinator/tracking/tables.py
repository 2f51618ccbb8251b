"""A folder with three tables, as CSV or Parquet: the federation, its rounds, its clients' parts."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from coordinator.tracking.interface import Record
from coordinator.tracking.records import client_rows, facts, parameters, round_row

Row = dict[str, Any]
Write = Callable[[Path, Sequence[Row], Sequence[str]], None]


def write_csv(file: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A file with a line for each row; what is missing is empty."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(file: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A file with a column for each name; times are timestamps, what is missing is null."""
    import pyarrow  # noqa: PLC0415 - the extra tracking
    from pyarrow import parquet  # noqa: PLC0415

    values = {name: [_typed(name, row.get(name)) for row in rows] for name in columns}
    parquet.write_table(pyarrow.table(values), file)


def _typed(column: str, value: Any) -> Any:
    is_time = column.endswith("_at") and isinstance(value, str)
    return datetime.fromisoformat(value) if is_time else value


class Tables:
    """Writes ``federation``, ``rounds`` and ``clients`` into a folder, each file as a whole."""

    def __init__(self, folder: Path, suffix: str, write: Write) -> None:
        self._folder = folder
        self._suffix = suffix
        self._write = write
        self._federation: Record = {}
        self._rounds: list[Row] = []
        self._clients: list[Row] = []

    def begin(self, federation: Record) -> None:
        """Makes the folder, with the federation's table."""
        self._federation = federation
        self._folder.mkdir(parents=True)
        self.flush()

    def add(self, round_: Record) -> None:
        """Takes one closed round; :meth:`flush` and :meth:`end` write it."""
        self._rounds.append(round_row(round_))
        self._clients += client_rows(round_)

    def flush(self) -> None:
        """Writes the files with all that was taken."""
        known = facts(self._federation) | parameters(self._federation)
        pairs = [
            {"name": name, "value": None if value is None else str(value)}
            for name, value in known.items()
        ]
        for name, rows in (
            ("federation", pairs),
            ("rounds", self._rounds),
            ("clients", self._clients),
        ):
            self._replace(self._folder / f"{name}.{self._suffix}", rows)

    def end(self, federation: Record) -> None:
        """Writes the tables for the last time."""
        self._federation = federation
        self.flush()

    def discard(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _replace(self, file: Path, rows: Sequence[Row]) -> None:
        part = file.with_name(f".{file.name}.part")
        columns = list(dict.fromkeys(name for row in rows for name in row))
        try:
            self._write(part, rows, columns)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
