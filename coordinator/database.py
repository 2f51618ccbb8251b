"""Engine and transactions, alike for SQLite and PostgreSQL.

Reading and writing are told apart because SQLite needs it: a transaction that starts by reading
and writes later fails when another has written in between. ``writing`` takes the write lock first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

_BUSY_TIMEOUT_SECONDS = 30
_WRITES = "writes"
_IS_DURABLE = "is_durable"


class Database:
    """Opens transactions on one database. ``url`` may be ``sqlite:///path`` or ``postgresql://…``."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            parsed = parsed.set(drivername="sqlite+aiosqlite")
            connect_args: dict[str, Any] = {"timeout": _BUSY_TIMEOUT_SECONDS}
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            connect_args = {"connect_timeout": _BUSY_TIMEOUT_SECONDS}
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {}
        if not self.is_sqlite:
            # Whatever the server's default: who waited for a row's lock must see its newest form.
            options = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        self.engine = create_async_engine(parsed, connect_args=connect_args, **options)
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _configure_sqlite)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine.sync_engine, "begin", _begin_postgresql)
        durable = self.engine.execution_options(**{_WRITES: True, _IS_DURABLE: True})
        hasty = self.engine.execution_options(**{_WRITES: True, _IS_DURABLE: False})
        self._read_session = async_sessionmaker(self.engine, expire_on_commit=False)
        self._durable_session = async_sessionmaker(durable, expire_on_commit=False)
        self._hasty_session = async_sessionmaker(hasty, expire_on_commit=False)
        # SQLite's own queue for the write lock sleeps and retries; within a process ours is fair.
        self._write_queue = asyncio.Lock() if self.is_sqlite else None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session for queries; nothing it changes is kept."""
        async with self._read_session() as session:
            yield session

    @asynccontextmanager
    async def writing(self, *, durable: bool = True) -> AsyncIterator[AsyncSession]:
        """A session whose changes are committed together at the end, or not at all.

        Without ``durable`` the commit does not wait for the disk: a power failure may take back
        the newest such changes, until the next durable commit keeps them too. That is for what is
        worthless alone, such as the chunks of an upload that is not recorded yet.
        """
        sessions = self._durable_session if durable else self._hasty_session
        async with AsyncExitStack() as stack:
            if self._write_queue is not None:
                await stack.enter_async_context(self._write_queue)
            session = await stack.enter_async_context(sessions.begin())
            yield session

    async def close(self) -> None:
        """Closes every connection."""
        await self.engine.dispose()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    cursor = connection.cursor()
    cursor.execute("PRAGMA page_size=16384")  # weights are stored in chunks of a MiB
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # Some builds overwrite what is deleted with zeros, which doubles what an update writes.
    cursor.execute("PRAGMA secure_delete=FAST")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get(_WRITES, False):
        connection.exec_driver_sql("BEGIN")
        return
    level = "FULL" if options[_IS_DURABLE] else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous={level}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_WRITES, False) and not options[_IS_DURABLE]:
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
