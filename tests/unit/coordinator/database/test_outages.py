"""Which errors mean that the database does not serve now, and how seldom they are logged."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs

from coordinator.database.outages import Outage, OutageLog, isolated, outage_of

_AWAY = PoolTimeoutError("QueuePool limit reached")


def _sqlite(code: int) -> OperationalError:
    cause = sqlite3.OperationalError("message")
    cause.sqlite_errorcode = code
    return OperationalError("INSERT", {}, cause)


FULL = _sqlite(sqlite3.SQLITE_FULL)

CASES: dict[str, tuple[BaseException, Outage | None]] = {
    "a full SQLite disk": (FULL, Outage.STORAGE_FULL),
    "a SQLite file that may not grow": (
        _sqlite(sqlite3.SQLITE_IOERR_WRITE),
        Outage.STORAGE_FULL,
    ),
    "a SQLite index that may not grow": (
        _sqlite(sqlite3.SQLITE_IOERR_SHMSIZE),
        Outage.STORAGE_FULL,
    ),
    "a SQLite disk that cannot be read": (_sqlite(sqlite3.SQLITE_IOERR_READ), Outage.UNANSWERED),
    "a locked SQLite": (_sqlite(sqlite3.SQLITE_BUSY), Outage.UNANSWERED),
    "a full PostgreSQL disk": (
        OperationalError("INSERT", {}, psycopg.errors.DiskFull("no space")),
        Outage.STORAGE_FULL,
    ),
    "a PostgreSQL that shuts down": (
        OperationalError("SELECT", {}, psycopg.errors.AdminShutdown("bye")),
        Outage.UNANSWERED,
    ),
    "a PostgreSQL that does not listen": (
        OperationalError("SELECT", {}, psycopg.errors.ConnectionTimeout("timeout")),
        Outage.UNANSWERED,
    ),
    "no free connection": (_AWAY, Outage.UNANSWERED),
    "a conflict": (IntegrityError("INSERT", {}, sqlite3.IntegrityError("unique")), None),
    "a fault of ours": (InvalidRequestError("closed"), None),
    "another fault": (ValueError("x"), None),
}


@pytest.mark.parametrize(("error", "outage"), CASES.values(), ids=CASES.keys())
def test_an_error_says_what_is_wrong_with_the_database(
    error: BaseException, outage: Outage | None
) -> None:
    assert outage_of(error) is outage


class Watched:
    """A log of outages with a clock of its own, and what it wrote."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = OutageLog(lambda: self.now)

    def fail(self, times: int = 1, error: BaseException = _AWAY) -> list[Any]:
        with capture_logs() as logs:
            for _ in range(times):
                self.log.failed(error)
        return [line["event"] for line in logs]

    def succeed(self, *, wrote: bool = True) -> list[Any]:
        with capture_logs() as logs:
            self.log.succeeded(wrote=wrote)
        return logs


def test_an_outage_is_one_line_at_its_beginning_and_one_at_its_end() -> None:
    watched = Watched()
    assert watched.fail(1000) == ["database does not answer"]
    watched.now = 10.0
    [line] = watched.succeed()
    assert line["event"] == "database answers again"
    assert (line["after_seconds"], line["failures"]) == (10.0, 1000)
    assert watched.succeed() == []


def test_an_outage_that_lasts_is_told_of_every_minute() -> None:
    watched = Watched()
    watched.fail()
    lines = []
    for _ in range(180):
        watched.now += 1.0
        lines += watched.fail(10)
    assert lines == ["database does not answer"] * 3


def test_outages_that_come_and_go_are_no_flood() -> None:
    watched = Watched()
    lines = []
    for _ in range(100):
        lines += watched.fail() + watched.succeed()
        watched.now += 0.1
    assert len(lines) == 2


def test_only_a_write_shows_that_there_is_room_again() -> None:
    watched = Watched()
    assert watched.fail(error=FULL) == ["database has no room left"]
    assert watched.succeed(wrote=False) == []
    [line] = watched.succeed(wrote=True)
    assert line["event"] == "database has room again"


def test_an_error_that_is_no_outage_is_left_to_others() -> None:
    assert Watched().fail(error=CASES["a conflict"][0]) == []


def test_a_fault_in_an_isolated_block_is_logged_with_its_names() -> None:
    with capture_logs() as logs, isolated("not done", federation=3):
        raise KeyError("x")
    assert [(one["event"], one["federation"], one["log_level"]) for one in logs] == [
        ("not done", 3, "error")
    ]


def test_an_outage_leaves_an_isolated_block_or_ends_it_in_silence() -> None:
    with capture_logs() as logs:
        with pytest.raises(PoolTimeoutError), isolated("not done"):
            raise _AWAY
        with isolated("not done", outages_too=True):
            raise _AWAY
    assert logs == []
