"""Brings a database's schema up to date, once, however many replicas start together."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, make_url, text

import migrations

_LOCK_KEY = 0x68797065
"""Any number will do, as long as every replica takes the same ("hype")."""


class NewerSchemaError(Exception):
    """The database was migrated by newer code than this."""


def migrate(database_url: str) -> tuple[str | None, str]:
    """Applies what is missing; returns the revisions before and after.

    Raises:
        NewerSchemaError: the database knows a revision that this code does not.
    """
    config = _config()
    with _exclusive_connection(database_url) as connection:
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
def _exclusive_connection(database_url: str) -> Iterator[Connection]:
    """A connection in a transaction that no other replica's migration runs beside."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url.set(drivername="sqlite"), isolation_level="AUTOCOMMIT", connect_args={"timeout": 60}
        )
        exclusive = _exclusive_on_sqlite
    else:
        engine = create_engine(url.set(drivername="postgresql+psycopg"))
        exclusive = _exclusive_on_postgresql
    try:
        with exclusive(engine) as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _exclusive_on_sqlite(engine: Engine) -> Iterator[Connection]:
    """SQLite's driver starts no transaction before DDL, so it is begun and ended by hand."""
    file = Path(engine.url.database or "")
    # Changing the journal mode does not wait its turn as transactions do, hence a lock around it.
    with (
        file.with_name(f".{file.name}.migrating").open("w") as lock,
        engine.connect() as connection,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection.execute(text("PRAGMA page_size=16384"))
        connection.execute(text("PRAGMA journal_mode=WAL"))
        connection.execute(text("BEGIN IMMEDIATE"))
        try:
            yield connection
        except BaseException:
            connection.execute(text("ROLLBACK"))
            raise
        connection.execute(text("COMMIT"))


@contextmanager
def _exclusive_on_postgresql(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        yield connection
