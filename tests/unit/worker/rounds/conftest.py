from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.looping_worker import Worker
from tests.support.round_bench import Bench


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(tmp_path, getattr(request, "param", "dense"))
    yield made
    for group in made.groups:
        group.close()


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)
