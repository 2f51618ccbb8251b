from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.rest.schema import Task
from tests.support.api_calls import FEDERATION
from tests.support.fake_coordinator import FakeCoordinator, credential
from tests.support.specifications import tiny_specification
from worker.remote.coordinator_api import CoordinatorApi


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification(FEDERATION))


@pytest.fixture
def task(coordinator: FakeCoordinator) -> Task:
    return coordinator.add_task("alice", round_number=3)


@pytest.fixture
async def client(coordinator: FakeCoordinator) -> AsyncIterator[CoordinatorApi]:
    connected = CoordinatorApi(coordinator.address, credential("alice"))
    yield connected
    await connected.close()
