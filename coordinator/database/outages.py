"""Tells a database that does not serve now from a fault, and says so once instead of every time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_AGAIN_SECONDS = 60.0
"""An outage that lasts is logged so often."""
_APART_SECONDS = 10.0
"""Of outages that follow each other faster, one is logged."""

_CANNOT_WRITE = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
"""What SQLite makes of a quota or a limit on file sizes; a full disk is SQLITE_FULL."""
_DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE."""
_PRIMARY_CODE = 0xFF

_log = structlog.get_logger()


class Outage(Enum):
    """Why a database does not serve: what is logged when it begins, and when it is over."""

    UNANSWERED = ("database does not answer", "database answers again")
    STORAGE_FULL = ("database has no room left", "database has room again")

    def __init__(self, began: str, ended: str) -> None:
        self.began = began
        self.ended = ended


def outage_of(error: BaseException) -> Outage | None:
    """What ``error`` says of the database; None if the fault is not the database's."""
    if isinstance(error, PoolTimeoutError):
        return Outage.UNANSWERED
    if not isinstance(error, DBAPIError) or isinstance(
        error, DataError | IntegrityError | ProgrammingError
    ):
        return None
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None and (code & _PRIMARY_CODE == sqlite3.SQLITE_FULL or code in _CANNOT_WRITE):
        return Outage.STORAGE_FULL
    if getattr(error.orig, "sqlstate", None) == _DISK_FULL:
        return Outage.STORAGE_FULL
    return Outage.UNANSWERED


@contextmanager
def isolated(event: str, *, outages_too: bool = False, **names: object) -> Iterator[None]:
    """A block whose failure is logged as ``event`` and keeps nothing after it from running.

    An outage is raised, since what comes after would meet it too, or with ``outages_too`` ends the
    block in silence: the database has its own log of outages.
    """
    try:
        yield
    except Exception as error:
        if outage_of(error) is None:
            _log.exception(event, **names)
        elif not outages_too:
            raise


@dataclass
class _State:
    failures: int = 0
    is_announced: bool = False
    announced_at: float = float("-inf")
    began_at: float = 0.0


class OutageLog:
    """Logs the beginning and the end of outages, however many transactions fail meanwhile."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._states = {outage: _State() for outage in Outage}

    def failed(self, error: BaseException) -> None:
        """A transaction failed; errors that are no outage are left to others."""
        outage = outage_of(error)
        if outage is None:
            return
        state, now = self._states[outage], self._monotonic()
        if state.failures == 0:
            state.began_at = now
        state.failures += 1
        quiet_seconds = _AGAIN_SECONDS if state.is_announced else _APART_SECONDS
        if now - state.announced_at >= quiet_seconds:
            state.is_announced, state.announced_at = True, now
            reason = str(error).partition("\n")[0]
            _log.error(outage.began, error=reason, failures=state.failures)

    def succeeded(self, *, wrote: bool) -> None:
        """A transaction was committed, which ends an outage; only one that wrote shows room."""
        for outage, state in self._states.items():
            if state.failures == 0 or (outage is Outage.STORAGE_FULL and not wrote):
                continue
            if state.is_announced:
                seconds = round(self._monotonic() - state.began_at, 1)
                _log.info(outage.ended, after_seconds=seconds, failures=state.failures)
            state.is_announced, state.failures = False, 0
