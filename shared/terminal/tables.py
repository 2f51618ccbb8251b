"""How commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from shared.terminal.printable import printable

_WIDEST = 10_000


def print_json(data: Any) -> None:
    """One line of JSON on stdout."""
    typer.echo(json.dumps(data))


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Rows as a table; missing values stay empty."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        # As text: rich would read markup in what a server said.
        table.add_row(*(Text(_text(row.get(column))) for column in columns))
    console = Console(soft_wrap=True)
    # A table that is shrunk to the terminal would cut what is shown only once: tokens.
    wide = Measurement.get(console, console.options.update(width=_WIDEST), table).maximum
    console.width = max(wide, console.width)
    console.print(table)


def print_line(text: str) -> None:
    """One line on stdout, whatever the text is."""
    typer.echo(printable(text))


class RowByRow:
    """A table whose rows come one at a time, under one header.

    The columns are as wide as their headings; a longer value moves the rest of its line.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._headings = {column: column.replace("_", " ") for column in columns}
        self._has_begun = False

    def print(self, row: dict[str, Any]) -> None:
        """Prints a row, and the header before the first."""
        if not self._has_begun:
            print_line("  ".join(self._headings.values()))
            self._has_begun = True
        cells = (
            _text(row.get(column)).ljust(len(heading)) for column, heading in self._headings.items()
        )
        print_line("  ".join(cells).rstrip())


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Rows with all they have as JSON, or their ``columns`` as a table."""
    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))
