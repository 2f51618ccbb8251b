"""PostgreSQL's answers in binary form.

psycopg asks for text unless a cursor says otherwise, and PostgreSQL writes bytes as text with two
digits a byte, which both sides convert: a stored update of 0.7 MB then takes six times as long.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncCursor
from psycopg.pq import Format


class BinaryCursor(AsyncCursor[Any]):
    """A cursor whose rows come in binary form."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.format = Format.BINARY
