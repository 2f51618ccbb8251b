"""Clients of a fake coordinator, with random data and a stub method's private state."""

from __future__ import annotations

from asyncio import sleep
from pathlib import Path
from typing import Any

import numpy as np

from shared.arrays import Array
from shared.rest.schema import UpdateMetadata
from shared.tensors import codec
from tests.support.fake_coordinator import URL, FakeCoordinator, credential, enrolment_token
from tests.support.random_clients import random_client_data
from worker.data.client_data import ClientData
from worker.data.images import ImageShape
from worker.data.source import DataSource
from worker.methods.interface import Method
from worker.remote.connection import Transport
from worker.remote.coordinator_api import CoordinatorApi
from worker.remote.patience import Sleep
from worker.settings import ClientConfig, WorkerConfig
from worker.site import private_state
from worker.site.hosted_client import HostedClient
from worker.site.parts import SiteParts
from worker.site.private_state import PrivateState

NUM_TRAIN_EXAMPLES = 5


class RandomDatasets:
    """Stands in for the data sets: random images, and what was asked for."""

    def __init__(self, pixel_statistics: object = None, max_bytes: int | None = None) -> None:
        self.pixel_statistics = pixel_statistics
        self.asked: list[tuple[DataSource, ImageShape, int]] = []

    def client_data(
        self,
        source: DataSource,
        image_shape: ImageShape,
        num_classes: int,
        class_names: tuple[str, ...] | None = None,
        features: object = None,
    ) -> ClientData:
        self.asked.append((source, image_shape, num_classes))
        return random_client_data(0, NUM_TRAIN_EXAMPLES)

    def try_out(self, source: DataSource) -> None:
        """Nothing is wrong with it."""


def stub_parts(method: Method, transport: Transport | None, sleep: Sleep = sleep) -> SiteParts:
    """A site that trains with ``method`` on random data."""
    return SiteParts(transport, lambda *_: method, RandomDatasets, sleep)


def client_config(folder: Path, name: str, **fields: Any) -> ClientConfig:
    return ClientConfig.model_validate(
        {
            "name": name,
            "state_dir": folder / name,
            "enrolment_token": enrolment_token(name),
            "data": DataSource(dataset="digits"),
        }
        | fields
    )


def worker_config(folder: Path, federation: str, *names: str) -> WorkerConfig:
    return WorkerConfig(
        coordinator_url=URL,
        federation=federation,
        clients=tuple(client_config(folder, name) for name in names),
    )


def first_state(coordinator: FakeCoordinator, name: str) -> PrivateState:
    """What a client has before its first round."""
    return PrivateState(
        federation=coordinator.specification.name,
        specification_digest=coordinator.specification_digest,
        client=name,
        seed=1,
        tensors={
            "embedding": np.zeros(3, np.float32),
            "head.weight": np.zeros((2, 2), np.float32),
        },
    )


def saved_state(coordinator: FakeCoordinator, folder: Path, name: str) -> PrivateState | None:
    """What the next worker will find of a client."""
    return private_state.load(
        folder / name,
        federation=coordinator.specification.name,
        specification_digest=coordinator.specification_digest,
        client=name,
    )


def hosted_client(coordinator: FakeCoordinator, folder: Path, name: str) -> HostedClient:
    """An enrolled client with the state that is on disk, or else its first one."""
    client = HostedClient(
        client_config(folder, name),
        CoordinatorApi(coordinator.address, credential(name)),
        random_client_data(0, NUM_TRAIN_EXAMPLES),
        saved_state(coordinator, folder, name) or first_state(coordinator, name),
    )
    client.save(client.state)
    return client


def read_update(content: bytes) -> tuple[dict[str, Array], UpdateMetadata]:
    """The wire tensors of an update, and what it says of itself."""
    tensors, metadata = codec.decode(content)
    return tensors, UpdateMetadata.model_validate_json(metadata["hyperfl"])
