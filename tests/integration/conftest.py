from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.context import Context
from coordinator.database.migrate import migrate
from coordinator.database.transactions import Database
from coordinator.metrics import CoordinatorMetrics
from coordinator.store.blobs import CHUNK_BYTES, BlobStore
from tests.support.coordinator import RunningCoordinator, running_coordinator


@pytest.fixture
def chunk_bytes() -> int:
    """Of a chunk that ``coordinator`` stores; see ``small_chunks``."""
    return CHUNK_BYTES


@pytest.fixture
async def coordinator(
    database_url: str, tmp_path: Path, chunk_bytes: int
) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(database_url, tmp_path, chunk_bytes=chunk_bytes) as running:
        yield running


@pytest.fixture
def blob_store(database: Database, chunk_bytes: int) -> BlobStore:
    return BlobStore(database, chunk_bytes)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    migrate(database_url)
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def replica_context(
    coordinator: RunningCoordinator, chunk_bytes: int
) -> AsyncIterator[Context]:
    """Of a second coordinator on the same database and clock."""
    own = coordinator.context
    opened = Database(own.settings.effective_database_url)
    blobs = BlobStore(opened, chunk_bytes)
    yield Context(opened, blobs, own.settings, own.clock, CoordinatorMetrics())
    await opened.close()
