"""Any process is killed at any time, again and again: the weights are those of a quiet run."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import new_database
from tests.support.two_workers import TwoWorkers, two_workers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_ROUNDS = 20
_MEAN_SECONDS = 2.5
_LONGER_EACH = 1.06
"""The mean time to the next kill grows, so that a slow machine gets to the end too."""
_LONGEST_SECONDS = 600.0
_FEWEST_KILLS = 4


@pytest.fixture(scope="module")
def undisturbed_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    async def run() -> str:
        folder = tmp_path_factory.mktemp("quiet") / "site"
        async with two_workers(folder, _ROUNDS) as running:
            digest = await running.finished(_LONGEST_SECONDS)
            assert [one.deaths for one in running.processes] == [0] * len(running.processes)
            return digest

    return asyncio.run(run())


@pytest.fixture
def chaos_database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """A new database; None is a SQLite file beside the coordinators."""
    if request.param == "sqlite":
        yield None
    else:
        yield from new_database(request.getfixturevalue("postgres_url"))


async def _disturb(running: TwoWorkers, draw: random.Random) -> Counter[int]:
    """Kills until all rounds but the last are committed; how often each process was killed."""
    kills: Counter[int] = Counter()
    mean = _MEAN_SECONDS
    next_at = time.monotonic() + draw.expovariate(1 / mean)
    shown: dict[str, object] = {}
    async with asyncio.timeout(_LONGEST_SECONDS):
        while int(str(shown.get("rounds_committed", 0))) < _ROUNDS - 1:
            shown = await running.look() or shown
            if time.monotonic() >= next_at:
                which = draw.randrange(len(running.processes))
                kills[which] += running.processes[which].kill()
                mean *= _LONGER_EACH
                next_at = time.monotonic() + draw.expovariate(1 / mean)
    return kills


@pytest.mark.parametrize("chaos_database", ["sqlite", "postgresql"], indirect=True)
async def test_whoever_is_killed_whenever_the_weights_are_the_same(
    chaos_database: str | None,
    tmp_path: Path,
    undisturbed_digest: str,
    request: pytest.FixtureRequest,
) -> None:
    given: str | None = request.config.getoption("--hypothesis-seed")
    seed = secrets.randbits(32) if given is None else int(given)
    print(f"the same kills again, as far as the machine is as fast: --hypothesis-seed={seed}")
    async with two_workers(tmp_path / "site", _ROUNDS, chaos_database) as running:
        kills = await _disturb(running, random.Random(seed))
        digest = await running.finished(_LONGEST_SECONDS)
        print(f"kills by process: {sorted(kills.items())}")
    assert kills.total() >= _FEWEST_KILLS
    assert digest == undisturbed_digest
