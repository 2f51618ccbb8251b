"""Copies a SQLite database while it is in use, and puts a copy back. PostgreSQL has pg_dump."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import make_url

from coordinator.database.migrate import known_revisions
from coordinator.errors import BackupError, NewerSchemaError

_HEADER = b"SQLite format 3\0"
_BUSY_SECONDS = 60.0
"""For a file that another process has locked whole, as no coordinator does for longer."""


def back_up(database_url: str, file: Path) -> str:
    """Writes a consistent copy of the database to ``file``, mode 0600; returns its schema.

    The copy shows one moment: later commits are not in it, and nobody waits for it.

    Raises:
        BackupError: not a SQLite database, none there, or ``file`` exists.
    """
    source = sqlite_file(database_url)
    if not source.is_file():
        raise BackupError(f"there is no database {source}")
    with _new_file(file) as part, closing(_open(source, "ro")) as origin:
        with closing(_open(part, "rw")) as copy:
            origin.backup(copy)  # all pages in one step, so under one read transaction
        return _check(part)


def restore(file: Path, database_url: str) -> str:
    """Makes ``file`` the database, which must not be there yet; returns its schema.

    Raises:
        BackupError: there is a database, or ``file`` is damaged or holds none of a coordinator.
        NewerSchemaError: the copy was made by newer code.
    """
    target = sqlite_file(database_url)
    _check_header(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_file(target) as part:
        # Through SQLite, which takes what still lies in the copy's write-ahead log too.
        with closing(_open(file, "ro")) as origin, closing(_open(part, "rw")) as copy:
            try:
                origin.backup(copy)
            except sqlite3.DatabaseError as error:
                raise BackupError(
                    f"{file} is not a SQLite database, or is damaged: {error}"
                ) from error
        return _check(part, named=file)


def _check_header(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            header = stream.read(len(_HEADER))
    except OSError as error:
        raise BackupError(f"{file} cannot be read: {error.strerror}") from error
    if header != _HEADER:
        raise BackupError(f"{file} is not a SQLite database")


def sqlite_file(database_url: str) -> Path:
    """The file of a SQLite database; BackupError for any other."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise BackupError("this command is for SQLite; for PostgreSQL use pg_dump and pg_restore")
    return Path(url.database)


def _open(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS
    )


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A file to write that becomes ``file`` when all went well; BackupError if that exists."""
    if file.exists():
        raise BackupError(f"{file} exists; this command does not overwrite files")
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        # A link does not overwrite a file that came meanwhile, as a rename would.
        os.link(part, file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise BackupError(f"{file} exists; this command does not overwrite files") from error
    finally:
        for leftover in (part, *(part.with_name(part.name + end) for end in ("-wal", "-shm"))):
            leftover.unlink(missing_ok=True)


def _check(copy: Path, named: Path | None = None) -> str:
    """The schema of a whole database; BackupError if it is damaged or a stranger's."""
    name = named or copy
    with closing(_open(copy, "rw")) as connection:
        # One file that needs no companions, until a coordinator opens it.
        connection.execute("PRAGMA journal_mode=DELETE")
        try:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
            tables = {
                row[0]
                for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            }
            if "alembic_version" not in tables:
                raise BackupError(f"{name} is not a coordinator's database")
            revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.DatabaseError as error:
            raise BackupError(f"{name} is damaged: {error}") from error
    if found != "ok" or dangling is not None:
        fault = found if found != "ok" else "rows refer to rows that are missing"
        raise BackupError(f"{name} is damaged: {fault}")
    if len(revisions) != 1:
        raise BackupError(f"{name} is not a coordinator's database")
    schema = str(revisions[0][0])
    if schema not in known_revisions():
        raise NewerSchemaError(
            f"{name} has schema {schema}, which this version of hyperfl does not know; "
            "run the newer version"
        )
    return schema
