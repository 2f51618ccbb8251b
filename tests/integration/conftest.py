from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.coordinator import RunningCoordinator, running_coordinator


@pytest.fixture
async def coordinator(database_url: str, tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(database_url, tmp_path) as running:
        yield running
