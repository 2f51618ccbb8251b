"""Bounds the wait for a PostgreSQL that took a connection and says nothing more.

A server that is stopped, or a network that swallows packets, never answers; cancelling the wait
would wait for the server too. So the connection's own socket is shut down: the driver sees the end
of the connection, as if the server had closed it, and the pool forgets it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

_IS_NEW, _TIMER = "is_new", "timer"


class DatabaseDeadlines:
    """Gives every use of a connection its time: ``ping_seconds`` to answer, then a transaction's.

    ``on_reached`` is told how many seconds nobody answered.
    """

    def __init__(
        self, ping_seconds: float, transaction_seconds: float, on_reached: Callable[[float], None]
    ) -> None:
        self._ping_seconds = ping_seconds
        self._transaction_seconds = transaction_seconds
        self._on_reached = on_reached

    def watch(self, engine: AsyncEngine) -> None:
        """Looks after every connection of ``engine``, which must not ping by itself."""
        do_ping = engine.sync_engine.dialect.do_ping

        def on_connect(_connection: Any, entry: ConnectionPoolEntry) -> None:
            entry.info[_IS_NEW] = True

        def on_checkout(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
            if not entry.info.pop(_IS_NEW, False):
                self._start(connection, entry, self._ping_seconds)
                try:
                    do_ping(connection)
                except psycopg.Error as error:
                    _stop(entry)
                    raise InvalidatePoolError from error
            self._start(connection, entry, self._transaction_seconds)

        def on_checkin(_connection: Any, entry: ConnectionPoolEntry) -> None:
            _stop(entry)

        event.listen(engine.sync_engine, "connect", on_connect)
        event.listen(engine.sync_engine, "checkout", on_checkout)
        event.listen(engine.sync_engine, "checkin", on_checkin)

    def _start(self, connection: Any, entry: ConnectionPoolEntry, seconds: float) -> None:
        _stop(entry)
        loop = asyncio.get_running_loop()
        entry.info[_TIMER] = loop.call_later(
            seconds, self._shut_down, connection.driver_connection, seconds
        )

    def _shut_down(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        if connection.closed:
            return
        self._on_reached(seconds)
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def _stop(entry: ConnectionPoolEntry) -> None:
    timer = entry.info.pop(_TIMER, None)
    if timer is not None:
        timer.cancel()
