"""Any process is killed at any time, again and again: the weights are those of a quiet run."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.postgres import new_database
from tests.support.two_workers import TwoWorkers, two_workers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_ROUNDS = 20
_KILLS = 8
_KILLED_UNTIL_ROUND = 12
"""Rounds are left after it, so that a fast machine does not finish before the last kill."""
_LONGEST_SECONDS = 600.0


@dataclass(frozen=True)
class QuietRun:
    """A run in which nothing was killed."""

    digest: str
    round_seconds: float


@pytest.fixture(scope="module")
def quiet_run(tmp_path_factory: pytest.TempPathFactory) -> QuietRun:
    async def run() -> QuietRun:
        folder = tmp_path_factory.mktemp("quiet") / "site"
        async with two_workers(folder, _ROUNDS) as running:
            await _committed(running, 1)
            started = time.monotonic()
            digest = await running.finished(_LONGEST_SECONDS)
            assert [one.deaths for one in running.processes] == [0] * len(running.processes)
            return QuietRun(digest, (time.monotonic() - started) / (_ROUNDS - 1))

    return asyncio.run(run())


@pytest.fixture
def chaos_database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """A new database; None is a SQLite file beside the coordinators."""
    if request.param == "sqlite":
        yield None
    else:
        yield from new_database(request.getfixturevalue("postgres_url"))


async def _committed(running: TwoWorkers, rounds: int) -> None:
    """Returns once so many rounds are committed."""
    async with asyncio.timeout(_LONGEST_SECONDS):
        while (await running.look()).get("rounds_committed", 0) < rounds:
            pass


async def _disturb(running: TwoWorkers, draw: random.Random, round_seconds: float) -> Counter[int]:
    """Kills at some moment of drawn rounds; how often each process was killed.

    Rounds, and not seconds, say when: so the number of kills does not depend on the machine.
    """
    kills: Counter[int] = Counter()
    for committed in sorted(draw.sample(range(_KILLED_UNTIL_ROUND), _KILLS)):
        await _committed(running, committed)
        await asyncio.sleep(draw.uniform(0, round_seconds))
        which = draw.randrange(len(running.processes))
        kills[which] += running.processes[which].kill()
    return kills


@pytest.mark.parametrize("chaos_database", ["sqlite", "postgresql"], indirect=True)
async def test_whoever_is_killed_whenever_the_weights_are_the_same(
    chaos_database: str | None,
    tmp_path: Path,
    quiet_run: QuietRun,
    request: pytest.FixtureRequest,
) -> None:
    given: str | None = request.config.getoption("--hypothesis-seed")
    seed = secrets.randbits(32) if given is None else int(given)
    print(f"the same kills again, as far as the machine is as fast: --hypothesis-seed={seed}")
    async with two_workers(tmp_path / "site", _ROUNDS, chaos_database) as running:
        kills = await _disturb(running, random.Random(seed), quiet_run.round_seconds)
        digest = await running.finished(_LONGEST_SECONDS)
        print(f"kills by process: {sorted(kills.items())}")
    assert kills.total() == _KILLS
    assert digest == quiet_run.digest
