from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator import blobs
from coordinator.database import Database
from coordinator.migrate import migrate
from tests.support.coordinator import RunningCoordinator, running_coordinator


@pytest.fixture
async def coordinator(database_url: str, tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(database_url, tmp_path) as running:
        yield running


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every blob has several chunks, so that some are written before it is sealed."""
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 200)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    migrate(database_url)
    opened = Database(database_url)
    yield opened
    await opened.close()
