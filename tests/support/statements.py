"""The SQL that a database is sent: noted, or a moment at which a test acts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from coordinator.database.transactions import Database

_BEGINS = "SELECT set_config("
"""A transaction on PostgreSQL: its bounds."""
Values = tuple[Any, ...]
"""A statement's parameters, in order."""
Act = Callable[[Values], Awaitable[None] | None]


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent meanwhile, beside what a transaction begins with."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(_BEGINS):
            sent.append(statement)

    with _listening(database, "before_cursor_execute", note):
        yield sent


@contextmanager
def before_statement(database: Database, pattern: str, act: Act) -> Iterator[None]:
    """Calls ``act`` before each statement that ``pattern`` is found in; what it raises is raised.

    The statement is searched on one line. What ``act`` awaits holds up the transaction.
    """
    with _listening(database, "before_cursor_execute", _acting(pattern, act)):
        yield


@contextmanager
def after_statement(database: Database, pattern: str, act: Act) -> Iterator[None]:
    """As :func:`before_statement`, once the statement was executed."""
    with _listening(database, "after_cursor_execute", _acting(pattern, act)):
        yield


def failing(error: Exception) -> Act:
    """Raises ``error`` in place of the statement."""

    def fail(_: Values) -> None:
        raise error

    return fail


def _acting(pattern: str, act: Act) -> Callable[..., None]:
    def on_statement(
        connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> None:
        if not re.search(pattern, " ".join(statement.split())):
            return
        values = parameters.values() if isinstance(parameters, Mapping) else parameters or ()
        acting = act(tuple(values))
        if acting is not None:
            connection.connection.dbapi_connection.run_async(lambda _: acting)

    return on_statement


@contextmanager
def _listening(database: Database, name: str, listener: Callable[..., None]) -> Iterator[None]:
    engine = database.engine.sync_engine
    event.listen(engine, name, listener)
    try:
        yield
    finally:
        event.remove(engine, name, listener)
