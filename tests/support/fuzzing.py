"""A fuzzer's run: cases that are drawn by number, and what must hold after each of them."""

from __future__ import annotations

import gc
import secrets
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from psutil import Process

from coordinator.store.tables import AuditRow, Base
from shared.rest.problems import MEDIA_TYPE
from shared.terminal.logs import configure_logging
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.log_watch import LogWatch
from tests.support.raw_requests import RawAnswer, RawRequest, ask

MOST_MEMORY_BYTES = 64 << 20
_WARM_AFTER = 0.2
"""Of all cases: what is kept once, such as compiled queries, is there by then."""
_LONGEST_PROBLEM = 64 << 10
"""What a worker reads of one."""
_SECONDS_EACH = 0.001
_UNLIMITED: dict[str, float] = {
    "requests_per_second_per_token": 1e7,
    "requests_per_second_per_address": 1e7,
    "unauthenticated_requests_per_second_per_address": 1e7,
}
"""Every case has to be looked at."""
_SHOWN_BYTES = 2000
FIXED_SEED = 2022


@dataclass(frozen=True)
class Cases:
    """Which cases are drawn: case ``number`` of ``seed`` is the same in every run."""

    seed: int
    numbers: range

    @classmethod
    def of(cls, config: pytest.Config, count: int, *, is_seed_drawn: bool) -> Cases:
        """``--hypothesis-seed`` and ``--fuzz-case`` repeat what failed."""
        given: str | None = config.getoption("--hypothesis-seed")
        only: int | None = config.getoption("--fuzz-case", default=None)
        drawn = secrets.randbits(32) if is_seed_drawn else FIXED_SEED
        seed = drawn if given is None else int(given)
        return cls(seed, range(count) if only is None else range(only, only + 1))

    def __iter__(self) -> Iterator[tuple[int, Random]]:
        for number in self.numbers:
            yield number, self.draw(number)

    def draw(self, number: int) -> Random:
        return Random(f"{self.seed}:{number}")

    def repeat(self, number: int) -> str:
        return f"--hypothesis-seed={self.seed} --fuzz-case={number}"


class Memory:
    """Whether this process keeps more and more."""

    def __init__(self, cases: Cases) -> None:
        self._warm_at = cases.numbers[int(len(cases.numbers) * _WARM_AFTER)]
        self._warm_bytes = 0

    def look(self, number: int) -> None:
        if number == self._warm_at:
            self._warm_bytes = self._resident()

    def check(self) -> None:
        assert self._resident() - self._warm_bytes < MOST_MEMORY_BYTES

    @staticmethod
    def _resident() -> int:
        gc.collect()
        return int(Process().memory_info().rss)


class _Rows:
    """How many rows a SQLite file has, whoever writes them; audit events aside."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, isolation_level=None)
        tables = sorted(Base.metadata.tables.keys() - {AuditRow.__tablename__})
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
        self._count = f"SELECT {counts}"
        self._seen = -1
        self._counts: tuple[int, ...] = ()

    def counts(self) -> tuple[int, ...]:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._seen:
            self._seen = version
            self._counts = self._connection.execute(self._count).fetchone()
        return self._counts

    def close(self) -> None:
        self._connection.close()


@dataclass
class Fuzzed:
    """A coordinator in this process, asked by hand and looked at after each answer."""

    coordinator: RunningCoordinator
    cases: Cases
    log: LogWatch
    rows: _Rows
    answers: Counter[int] = field(default_factory=Counter)

    async def ask(self, number: int, request: RawRequest) -> RawAnswer:
        """The answer to case ``number``, after every rule was checked."""
        before = self.rows.counts()
        self.coordinator.clock.advance(_SECONDS_EACH)
        self.coordinator.context.driver_pulse.beat()
        answer = await ask(self.coordinator.app, request)
        self.answers[answer.status] += 1
        faults = list(self.log.taken_faults())
        if not 200 <= answer.status < 500 or answer.status == 429:
            faults.append(f"answered {answer.status}")
        if answer.status >= 400:
            if answer.headers.get("content-type") != MEDIA_TYPE:
                faults.append(f"no problem document: {answer.headers}")
            if len(answer.body) > _LONGEST_PROBLEM:
                faults.append(f"a problem of {len(answer.body)} bytes")
            if self.rows.counts() != before:
                faults.append(f"rows were {before}, and are {self.rows.counts()}")
        assert not faults, self._describe(number, request, answer, faults)
        return answer

    def _describe(
        self, number: int, request: RawRequest, answer: RawAnswer, faults: list[str]
    ) -> str:
        body = b"".join(request.pieces)
        return "\n".join(
            (
                *faults,
                f"repeat it with {self.cases.repeat(number)}",
                f"{request.method} {request.target[:_SHOWN_BYTES]}",
                f"headers {request.headers}",
                f"{len(body)} bytes of body: {body[:_SHOWN_BYTES]!r}",
                f"answer: {answer.body[:_SHOWN_BYTES]!r}",
            )
        )


@asynccontextmanager
async def fuzzed_coordinator(
    folder: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[Fuzzed]:
    """A coordinator on SQLite that logs as a real one does, to a stream that is watched."""
    log = LogWatch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", log)
        configure_logging("debug")
    file = folder / "hyperfl.db"
    async with running_coordinator(f"sqlite:///{file}", folder, **_UNLIMITED | settings) as running:
        with closing(_Rows(file)) as rows:
            yield Fuzzed(running, cases, log, rows)
