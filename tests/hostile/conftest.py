from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.coordinator import RunningCoordinator, running_coordinator


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    """On SQLite alone: what is refused here is refused before the database matters."""
    async with running_coordinator(f"sqlite:///{tmp_path / 'hyperfl.db'}", tmp_path) as running:
        yield running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-case", type=int, default=None, help="run only this case of a fuzzer's seed"
    )
