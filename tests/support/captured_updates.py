"""Updates as real workers send them: trained, encoded and uploaded by the worker's own code."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import hosted_client
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES
from tests.support.waiting import RecordedSleep
from worker.methods import build_method
from worker.metrics import WorkerMetrics
from worker.operations.specification import build_specification
from worker.remote.patience import Patience
from worker.remote.weights_cache import WeightsCache
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.rounds.round_work import RoundWork
from worker.rounds.update_writer import PlainWriter
from worker.site_policy import SitePolicy

CLIENT = "site-a"
ENCODINGS: dict[str, EncodingPlan] = {
    "dense": EncodingPlan(name="dense"),
    "float32": EncodingPlan(name="factored", wire_dtype="float32"),
    "float16": EncodingPlan(name="factored", wire_dtype="float16"),
    "bfloat16": EncodingPlan(name="factored", wire_dtype="bfloat16"),
}
"""Every way to write an update."""


@dataclass(frozen=True)
class CapturedUpdate:
    """The first update of ``CLIENT`` in a federation of one client."""

    specification: FederationSpecification
    body: bytes


async def capture_update(folder: Path, encoding: str, **policy: Any) -> CapturedUpdate:
    """Trains one round of HyperFL and takes what the worker puts on the wire."""
    specification = build_specification(
        encoding,
        method="hyperfl",
        model="tests.support.extractors:tiny",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"hidden_size": 4, "embedding_size": 6, "epochs": 1, "batch_size": 5},
        round_policy=RoundPolicy(**policy),
        encoding=ENCODINGS[encoding],
        seed=1,
    )
    coordinator = FakeCoordinator(specification)
    method = build_method(specification.training, torch.device("cpu"), RESOURCES)
    client = hosted_client(coordinator, folder, CLIENT)
    private = {name: tensor.numpy() for name, tensor in method.initial_private(1).items()}
    client.save(replace(client.state, tensors=private))
    patience = Patience(60.0, RecordedSleep())
    cache = WeightsCache(folder / "weights", specification, patience)
    gate = PolicyGate(SitePolicy(), specification.training)
    writer = PlainWriter(specification)
    work = RoundWork(writer, method, cache, patience, threading.Event(), gate, WorkerMetrics())
    try:
        assert await work.do([HeldTask(client, coordinator.add_task(CLIENT))])
    finally:
        work.close()
        await client.api.close()
    (body,) = coordinator.updates()
    return CapturedUpdate(specification, body)
