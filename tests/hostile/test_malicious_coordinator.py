"""A worker and a coordinator that lies, over a real socket: each lie is refused by its name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import RandomDatasets, first_state, worker_config
from tests.support.malicious_coordinator import MaliciousCoordinator, malicious_coordinator
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.errors import ImportNotAllowed, PrivateStateError
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import opening, private_state


class Site:
    """Runs a worker of one client against the malicious coordinator."""

    def __init__(self, folder: Path, coordinator: MaliciousCoordinator) -> None:
        self.folder = folder
        self.coordinator = coordinator

    async def run(self, **settings: Any) -> None:
        """Until the worker ends or gives up, which it does soon."""
        given = {"poll_wait_seconds": 0.0, "device": "cpu", "give_up_after_seconds": 0.01}
        await loop.run(
            self.config(), WorkerSettings.model_validate(given | settings), threading.Event()
        )

    def config(self) -> WorkerConfig:
        config = worker_config(self.folder, "tiny", "alice")
        return config.model_copy(update={"coordinator_url": self.coordinator.url})


@pytest.fixture
def coordinator() -> Iterator[MaliciousCoordinator]:
    with malicious_coordinator(FakeCoordinator(tiny_specification())) as coordinator:
        yield coordinator


@pytest.fixture
def site(tmp_path: Path, coordinator: MaliciousCoordinator) -> Site:
    return Site(tmp_path, coordinator)


@pytest.fixture
def training_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One whose method and data are stubs, so that it comes to the rounds."""
    method = StubMethod(site.coordinator.honest.specification.parameters)
    monkeypatch.setattr(opening, "build_method", lambda plan, device, resources: method)
    monkeypatch.setattr(opening, "DatasetCache", RandomDatasets)
    return site


async def test_with_the_truth_the_worker_works(training_site: Site) -> None:
    training_site.coordinator.honest.add_task("alice")
    await training_site.run()
    assert len(training_site.coordinator.honest.updates("alice")) == 1


@pytest.mark.parametrize(
    "names",
    [
        {"method": "huggingface_hub:logout"},
        {"model": "os:abort"},
        {"model": "sys:exit"},
        {"method": "subprocess:Popen", "model": "shutil:rmtree"},
    ],
    ids=str,
)
async def test_code_that_the_coordinator_names_is_not_imported(
    site: Site, names: dict[str, str]
) -> None:
    site.coordinator.name_code(**names)
    with pytest.raises(ImportNotAllowed, match=r"worker\.toml: allowed_imports =") as refused:
        await site.run()
    assert all(name in str(refused.value) for name in names.values())


async def test_a_state_of_another_specification_is_refused_before_any_code_is_looked_at(
    site: Site,
) -> None:
    private_state.save(site.folder / "alice", first_state(site.coordinator.honest, "alice"))
    site.coordinator.name_code(model="os:abort")
    with pytest.raises(PrivateStateError, match="belongs to specification sha256:"):
        await site.run()
