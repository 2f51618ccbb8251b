"""A hosted client: its credential, its data, its private state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from structlog.testing import capture_logs

from shared.rest.schema import TaskKind
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import (
    NUM_TRAIN_EXAMPLES,
    RandomDatasets,
    client_config,
    first_state,
    hosted_client,
)
from tests.support.random_clients import random_client_data
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from worker.data.client_data import ClientData
from worker.data.loading import DatasetCache
from worker.errors import PrivateStateError
from worker.remote.coordinator_api import CoordinatorApi
from worker.settings import ClientConfig
from worker.site import private_state
from worker.site.hosted_client import HostedClient, load_client
from worker.site.private_state import FILE_NAME, PendingUpdate

FEDERATION = "tiny"


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(tiny_specification(FEDERATION))


@pytest.fixture
def config(tmp_path: Path) -> ClientConfig:
    return client_config(tmp_path, "alice")


def load(
    coordinator: FakeCoordinator, config: ClientConfig, method: StubMethod | None = None
) -> HostedClient:
    return load_client(
        config,
        CoordinatorApi(coordinator.address, "credential-of-alice"),
        coordinator.specification,
        coordinator.specification_digest,
        method or StubMethod(coordinator.specification.parameters),
        cast(DatasetCache, RandomDatasets()),
    )


async def test_a_new_client_gets_a_state_that_is_saved_at_once(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    client = load(coordinator, config)
    assert client.state.tensors.keys() == {"embedding", "head.weight"}
    assert (client.state.last_round, client.state.pending) == (0, None)
    again = load(coordinator, config)
    assert again.state.seed == client.state.seed


async def test_seeds_differ_unless_they_are_given(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    configs = [client_config(tmp_path, name) for name in ("alice", "bob")]
    first, second = (load(coordinator, config).state.seed for config in configs)
    assert first != second
    # A random one is smaller once in 2**64 times.
    assert all(1 << 64 <= seed < 1 << 128 for seed in (first, second))
    assert load(coordinator, client_config(tmp_path, "carol", seed=7)).state.seed == 7


async def test_a_state_with_a_shorter_seed_goes_on(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    earlier = replace(first_state(coordinator, "alice"), seed=(1 << 63) - 1)
    private_state.save(config.state_dir, earlier)
    assert load(coordinator, config).participant().seed == (1 << 63) - 1


async def test_the_data_has_the_models_shape(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    datasets = RandomDatasets()
    load_client(
        config,
        CoordinatorApi(coordinator.address, None),
        coordinator.specification,
        coordinator.specification_digest,
        StubMethod(coordinator.specification.parameters),
        cast(DatasetCache, datasets),
    )
    assert datasets.asked == [(config.data, (1, 4, 4), 3)]


async def test_a_state_of_another_specification_is_refused(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    load(coordinator, config)
    content = (config.state_dir / FILE_NAME).read_bytes()
    other = FakeCoordinator(tiny_specification(FEDERATION, rounds=3))
    with pytest.raises(PrivateStateError, match="belongs to specification"):
        load(other, config)
    assert (config.state_dir / FILE_NAME).read_bytes() == content


async def test_a_state_of_another_method_is_refused_untouched(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    state = first_state(coordinator, "alice")
    del state.tensors["head.weight"]
    private_state.save(config.state_dir, state)
    content = (config.state_dir / FILE_NAME).read_bytes()
    with pytest.raises(PrivateStateError, match=r"alice: tensor head.weight is missing"):
        load(coordinator, config)
    assert (config.state_dir / FILE_NAME).read_bytes() == content


async def test_a_participants_tensors_are_copies(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    client = hosted_client(coordinator, tmp_path, "alice")
    participant = client.participant()
    participant.private["embedding"] += 1.0
    assert torch.count_nonzero(client.participant().private["embedding"]) == 0
    assert (participant.name, participant.seed) == ("alice", client.state.seed)


async def test_a_state_that_could_not_be_saved_is_not_taken(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    client = hosted_client(coordinator, tmp_path, "alice")
    before = client.state
    (tmp_path / "alice" / f".{FILE_NAME}.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        client.save(first_state(coordinator, "alice"))
    assert client.state is before


@pytest.mark.parametrize(
    ("kind", "round_number", "base_version", "base_digest", "is_wanted"),
    [
        (TaskKind.TRAIN, 2, 0, "the task's", True),
        (TaskKind.EVALUATE, 2, 0, "the task's", False),
        (TaskKind.TRAIN, 3, 0, "the task's", False),
        (TaskKind.TRAIN, 2, 1, "the task's", False),
        (TaskKind.TRAIN, 2, 0, "sha256:" + "0" * 64, False),
        (TaskKind.TRAIN, 2, 0, None, False),
    ],
)
async def test_a_pending_update_is_for_one_task_alone(
    coordinator: FakeCoordinator,
    tmp_path: Path,
    kind: TaskKind,
    round_number: int,
    base_version: int,
    base_digest: str | None,
    is_wanted: bool,
) -> None:
    task = coordinator.add_task("alice", round_number=2)
    client = hosted_client(coordinator, tmp_path, "alice")
    assert not client.has_pending_for(task)
    digest = task.base_digest if base_digest == "the task's" else base_digest
    pending = PendingUpdate(kind, round_number, base_version, b"update", digest)
    client.save(replace(client.state, pending=pending))
    assert client.has_pending_for(task) is is_wanted
    assert client.has_pending_for(task.model_copy(update={"attempt": 9})) is is_wanted


async def test_a_discarded_update_is_gone_on_disk_too(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    client = hosted_client(coordinator, tmp_path, "alice")
    pending = PendingUpdate(TaskKind.TRAIN, 1, 0, b"update")
    client.save(replace(client.state, pending=pending))
    client.discard_pending()
    assert client.state.pending is None
    assert load(coordinator, client_config(tmp_path, "alice")).state.pending is None


class SomeClasses(RandomDatasets):
    """Has examples of classes 0 and 2 of three, and files that were left out."""

    def client_data(self, *_: object) -> ClientData:
        data = random_client_data(0, NUM_TRAIN_EXAMPLES)
        for examples in (data.train, data.test):
            examples.labels.copy_(2 * (examples.labels // 2))
        return replace(data, left_out={".dcm": 30, "@eaDir": 120})


async def test_what_a_client_lacks_and_leaves_out_is_said(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    with capture_logs() as logs:
        load_client(
            config,
            CoordinatorApi(coordinator.address, None),
            coordinator.specification,
            coordinator.specification_digest,
            StubMethod(coordinator.specification.parameters),
            cast(DatasetCache, SomeClasses()),
        )
    said = [{k: v for k, v in line.items() if k != "client"} for line in logs]
    assert said == [
        {"event": "files left out", "log_level": "warning", "files": "30 .dcm, 120 @eaDir"},
        *(
            {
                "event": "classes without examples",
                "log_level": "info",
                "split": split,
                "number": 1,
                "classes": "1",
            }
            for split in ("train", "test")
        ),
    ]


async def test_a_client_is_untrained_until_a_round_has_changed_its_tensors(
    coordinator: FakeCoordinator, config: ClientConfig
) -> None:
    method = StubMethod(coordinator.specification.parameters)
    client = load(coordinator, config, method)
    assert client.is_untrained(method)
    client.state.tensors["embedding"][0] = 1.0
    assert not client.is_untrained(method)
