"""What a worker looks at before it enrols: nothing that is wrong at the site spends a token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.federation.plans import TrainingPlan
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import RandomDatasets, client_config, worker_config
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.tiny_images import write_images
from worker.data.source import DataSource
from worker.errors import ConfigError, DataError, ImportNotAllowed
from worker.methods.interface import Method, SiteResources
from worker.settings import WorkerConfig, WorkerSettings
from worker.site import opening
from worker.site.parts import SiteParts

CPU = WorkerSettings(device="cpu")


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification())


async def open_site(
    coordinator: FakeCoordinator, config: WorkerConfig, settings: WorkerSettings = CPU
) -> None:
    async with opening.open_site(config, settings, SiteParts(transport=coordinator.transport)):
        pass


def with_images(config: WorkerConfig, folder: Path) -> WorkerConfig:
    source = DataSource(dataset="image-folder", data_dir=folder)
    clients = [client.model_copy(update={"data": source}) for client in config.clients]
    return config.model_copy(update={"clients": tuple(clients)})


async def test_a_device_that_is_not_there_is_found_first(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    config = with_images(worker_config(tmp_path, "tiny", "alice"), tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="HYPERFL_DEVICE is cuda:99"):
        await open_site(coordinator, config, WorkerSettings(device="cuda:99"))
    assert coordinator.requests == []
    assert not (tmp_path / "alice").exists()


async def test_all_clients_data_is_read_before_anyone_enrols(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    write_images(tmp_path / "good", 3, side=4, train_examples=3, test_examples=3)
    write_images(tmp_path / "bad", 3, side=4, train_examples=3, test_examples=3)
    (tmp_path / "bad/test/class-1/0.png").write_bytes(b"no image")
    good = with_images(worker_config(tmp_path, "tiny", "alice"), tmp_path / "good")
    bad = with_images(worker_config(tmp_path, "tiny", "bob"), tmp_path / "bad")
    both = good.model_copy(update={"clients": good.clients + bad.clients})
    with pytest.raises(DataError, match=r"class-1/0\.png: expected an image"):
        await open_site(coordinator, both)
    assert coordinator.requests == []
    assert not (tmp_path / "alice").exists()


async def test_every_token_is_read_before_anyone_enrols(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    missing = tmp_path / "bob.token"
    bob = client_config(tmp_path, "bob", enrolment_token=None, enrolment_token_file=missing)
    config = worker_config(tmp_path, "tiny", "alice")
    config = config.model_copy(update={"clients": (*config.clients, bob)})
    with pytest.raises(ConfigError, match=r"bob\.token cannot be read: No such file"):
        await open_site(coordinator, config)
    assert coordinator.requests == []


async def test_classes_of_one_split_alone_are_no_fault_before_they_are_agreed(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    write_images(tmp_path / "images", 3, side=4, train_examples=3, test_examples=3)
    (tmp_path / "images/test/class-1").rename(tmp_path / "images/test/class-9")
    config = with_images(worker_config(tmp_path, "tiny", "alice"), tmp_path / "images")
    with pytest.raises(ImportNotAllowed):  # what is looked at once the federation is known
        await open_site(coordinator, config)
    assert len(coordinator.asked("POST", "/enrolments")) == 1


@pytest.mark.parametrize(("device", "number"), [("cpu", 1), ("cpu,cpu", 3)])
async def test_what_measures_while_devices_train_is_none_of_those_that_train(
    coordinator: FakeCoordinator, tmp_path: Path, device: str, number: int
) -> None:
    made: list[Method] = []

    def build(plan: TrainingPlan, device: torch.device, resources: SiteResources) -> Method:
        made.append(StubMethod(coordinator.specification.parameters))
        return made[-1]

    parts = SiteParts(coordinator.transport, build, RandomDatasets)
    config, settings = worker_config(tmp_path, "tiny", "alice"), WorkerSettings(device=device)
    async with opening.open_site(config, settings, parts) as site:
        assert len(made) == number
        assert site.method is made[0]
        assert (site.trainer is site.method) == (number == 1)
