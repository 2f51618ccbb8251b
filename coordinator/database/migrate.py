"""Brings a database's schema up to date, once, however many replicas start together."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, make_url, text

import migrations
from coordinator.database.transactions import SQLITE_PAGE_BYTES
from coordinator.errors import NewerSchemaError

_LOCK_KEY = 0x68797065
"""Any number will do, as long as every replica takes the same ("hype")."""
_LOOK_AGAIN_SECONDS = 0.05


def migrate(
    database_url: str, *, connect_seconds: int = 5, wait_seconds: float = 600.0
) -> tuple[str | None, str]:
    """Applies what is missing; returns the revisions before and after.

    Waits at most ``wait_seconds`` while another replica migrates.

    Raises:
        NewerSchemaError: the database knows a revision that this code does not.
        TimeoutError, OperationalError: another replica has not ended its migration.
    """
    config = _config()
    with _exclusive_connection(database_url, connect_seconds, wait_seconds) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        if before is not None and before not in known_revisions():
            raise NewerSchemaError(
                f"the database has schema {before}, which this version of hyperfl does not know; "
                "run the newer version"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        after = MigrationContext.configure(connection).get_current_revision()
    return before, str(after)


def known_revisions() -> set[str]:
    """The revisions that this code can bring up to date."""
    script = ScriptDirectory.from_config(_config())
    return {revision.revision for revision in script.walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


@contextmanager
def _exclusive_connection(
    database_url: str, connect_seconds: int, wait_seconds: float
) -> Iterator[Connection]:
    """A connection in a transaction that no other replica's migration runs beside."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url.set(drivername="sqlite"),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": wait_seconds},
        )
        exclusive = _exclusive_on_sqlite
    else:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": connect_seconds, "prepare_threshold": None},
        )
        exclusive = _exclusive_on_postgresql
    try:
        with exclusive(engine, wait_seconds) as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _exclusive_on_sqlite(engine: Engine, wait_seconds: float) -> Iterator[Connection]:
    """SQLite's driver starts no transaction before DDL, so it is begun and ended by hand."""
    file = Path(engine.url.database or "")
    # Changing the journal mode does not wait its turn as transactions do, hence a lock around it.
    with (
        file.with_name(f".{file.name}.migrating").open("w") as lock,
        engine.connect() as connection,
    ):
        _lock_file(lock, wait_seconds)
        connection.execute(text(f"PRAGMA page_size={SQLITE_PAGE_BYTES}"))
        connection.execute(text("PRAGMA journal_mode=WAL"))
        connection.execute(text("BEGIN IMMEDIATE"))
        try:
            yield connection
        except BaseException:
            connection.execute(text("ROLLBACK"))
            raise
        connection.execute(text("COMMIT"))


@contextmanager
def _exclusive_on_postgresql(engine: Engine, wait_seconds: float) -> Iterator[Connection]:
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout TO {int(1000 * wait_seconds)}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        yield connection


def _lock_file(lock: TextIO, wait_seconds: float) -> None:
    give_up_at = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                raise TimeoutError(
                    f"{lock.name} is still locked after {wait_seconds:g} s: "
                    "another coordinator migrates the database"
                ) from None
            time.sleep(_LOOK_AGAIN_SECONDS)
        else:
            return
