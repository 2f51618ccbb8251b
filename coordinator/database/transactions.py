"""Engine and transactions, alike for SQLite and PostgreSQL.

Reading and writing are told apart because SQLite needs it: a transaction that starts by reading
and writes later fails when another has written in between. ``writing`` takes the write lock first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from coordinator.database.activity import DatabaseActivity
from coordinator.database.binary_results import BinaryCursor
from coordinator.database.deadlines import DatabaseDeadlines
from coordinator.database.limits import DatabaseLimits
from coordinator.database.outages import OutageLog, outage_of

SQLITE_PAGE_BYTES = 16384
"""Weights are stored in chunks of a MiB."""
_SQLITE_CACHED_PAGES = 32
"""Of each connection. SQLite's own 2 MB, times the connections, would be most of what a coordinator
needs; behind it is the system's cache of the file."""
_WRITES = "writes"
_IS_DURABLE = "is_durable"
_SYNCHRONOUS = "synchronous"
_POSTGRESQL_BOUNDS = ("statement_timeout", "idle_in_transaction_session_timeout")


class Database:
    """Opens transactions on one database. ``url`` may be ``sqlite:///path`` or ``postgresql://…``."""

    def __init__(self, url: str, limits: DatabaseLimits | None = None) -> None:
        self._limits = limits or DatabaseLimits()
        self._outages = OutageLog()
        self.activity = DatabaseActivity()
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        driver = "sqlite+aiosqlite" if self.is_sqlite else "postgresql+psycopg"
        options: dict[str, Any] = {}
        if not self.is_sqlite:
            # Whatever the server's default: who waited for a row's lock must see its newest form.
            options = {"isolation_level": "READ COMMITTED"}
        self.engine = create_async_engine(
            parsed.set(drivername=driver),
            connect_args=connect_arguments(parsed, self._limits),
            pool_size=self._limits.connections,
            max_overflow=0,
            pool_timeout=self._limits.pool_seconds,
            **options,
        )
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", self._configure_sqlite)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)
            event.listen(self.engine.sync_engine, "invalidate", _end_sqlite)
        else:
            deadlines = DatabaseDeadlines(
                self._limits.connect_seconds, self._limits.transaction_seconds, self._note_silence
            )
            deadlines.watch(self.engine)
            event.listen(self.engine.sync_engine, "begin", self._begin_postgresql)
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
        with self._watched(wrote=False):
            wanted_at = time.monotonic()
            async with self._read_session() as session:
                await self._begin(session, wanted_at)
                yield session

    @asynccontextmanager
    async def writing(self, *, durable: bool = True) -> AsyncIterator[AsyncSession]:
        """A session whose changes are committed together at the end, or not at all.

        Without ``durable`` the commit does not wait for the disk: a power failure may take back
        the newest such changes, until the next durable commit keeps them too. That is for what is
        worthless on its own, such as the chunks of an upload that is not recorded yet.
        """
        sessions = self._durable_session if durable else self._hasty_session
        with self._watched(wrote=True):
            wanted_at = time.monotonic()
            async with AsyncExitStack() as stack:
                if self._write_queue is not None:
                    await self._wait_for_turn(self._write_queue)
                    stack.callback(self._write_queue.release)
                session = await stack.enter_async_context(sessions.begin())
                await self._begin(session, wanted_at)
                yield session

    async def close(self) -> None:
        """Closes every connection."""
        await self.engine.dispose()

    async def _begin(self, session: AsyncSession, wanted_at: float) -> None:
        """Begins at once what would begin with its first statement, so that waits are seen."""
        await session.connection()
        self.activity.begun += 1
        self.activity.waited_seconds += time.monotonic() - wanted_at

    @contextmanager
    def _watched(self, *, wrote: bool) -> Iterator[None]:
        """Counts how a transaction ended, and tells the log of outages."""
        try:
            yield
        except SQLAlchemyError as error:
            self.activity.failed[wrote] += 1
            self._note_outage(error)
            raise
        self.activity.committed[wrote] += 1
        self._outages.succeeded(wrote=wrote)

    def _note_outage(self, error: SQLAlchemyError) -> None:
        outage = outage_of(error)
        if outage is not None:
            self.activity.outages[outage] += 1
        self._outages.failed(error)

    def _note_silence(self, seconds: float) -> None:
        self._note_outage(PoolTimeoutError(f"no answer for {seconds:g} s"))

    async def _wait_for_turn(self, queue: asyncio.Lock) -> None:
        seconds = self._limits.transaction_seconds
        try:
            async with asyncio.timeout(seconds):
                await queue.acquire()
        except TimeoutError:
            raise PoolTimeoutError(f"no turn to write for {seconds:g} s") from None

    def _configure_sqlite(self, connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where _begin_sqlite says
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA page_size={SQLITE_PAGE_BYTES}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA cache_size={_SQLITE_CACHED_PAGES}")
        cursor.execute("PRAGMA foreign_keys=ON")
        # Some builds overwrite what is deleted with zeros, which doubles what an update writes.
        cursor.execute("PRAGMA secure_delete=FAST")
        if self._limits.max_bytes is not None:
            cursor.execute(f"PRAGMA max_page_count={self._limits.max_bytes // SQLITE_PAGE_BYTES}")
        cursor.close()

    def _begin_postgresql(self, connection: Connection) -> None:
        """A PostgreSQL ends by itself what a coordinator that is gone has left running or open."""
        milliseconds = int(1000 * self._limits.transaction_seconds)
        values = dict.fromkeys(_POSTGRESQL_BOUNDS, str(milliseconds))
        options = connection.get_execution_options()
        if options.get(_WRITES, False) and not options[_IS_DURABLE]:
            values["synchronous_commit"] = "off"
        calls = (f"set_config('{name}', '{value}', true)" for name, value in values.items())
        connection.exec_driver_sql(f"SELECT {', '.join(calls)}")


def connect_arguments(url: URL, limits: DatabaseLimits) -> dict[str, Any]:
    """What SQLite's or PostgreSQL's driver is told of the limits.

    Nothing of a PostgreSQL connection outlasts its transaction: a pooler may give each transaction
    to another server process, and takes no options of its own with the start of a connection.
    """
    if url.get_backend_name() == "sqlite":
        return {"timeout": limits.transaction_seconds}
    return {
        "connect_timeout": limits.connect_seconds,
        "prepare_threshold": None,
        "cursor_factory": BinaryCursor,
    }


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get(_WRITES, False):
        connection.exec_driver_sql("BEGIN")
        return
    level = "FULL" if options[_IS_DURABLE] else "NORMAL"
    if connection.info.get(_SYNCHRONOUS) != level:
        connection.exec_driver_sql(f"PRAGMA synchronous={level}")
        connection.info[_SYNCHRONOUS] = level
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _end_sqlite(connection: Any, *_: Any) -> None:
    """Before a connection is closed whose statement was cancelled: it keeps no lock.

    SQLite ends a closed connection's transaction with its last statement, and a cancelled one may
    be held by its error until that is collected as garbage.
    """
    connection.rollback()
