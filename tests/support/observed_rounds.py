"""Rounds on scikit-learn's digits, as whoever runs the coordinator sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from shared.arrays import Array
from shared.federation.plans import TrainingPlan
from shared.federation.specification import EncodingPlan
from shared.tensors.encodings import encoding_for
from tests.support.random_clients import RESOURCES, TESTS_ALLOWED
from worker.attacks.image_search import PixelRange
from worker.attacks.network import Network
from worker.attacks.observation import Observation
from worker.data.client_data import ClientData, Examples
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.methods import build_method
from worker.methods.interface import Participant

CPU = torch.device("cpu")
_DATASETS = DatasetCache()
CNN, CNN_SHAPE = "cnn-mnist", (1, 28, 28)
LINEAR, LINEAR_SHAPE = "tests.support.extractors:one_layer_on_digits", (1, 8, 8)


@dataclass(frozen=True)
class ObservedRound:
    """A client's round, and what an attack has of it."""

    observation: Observation
    network: Network
    pixel_range: PixelRange
    pixels: torch.Tensor
    """Of the client's images, 0..1 (n, C, H, W)."""
    labels: torch.Tensor
    public: Examples
    """Images that the client does not have."""
    private: dict[str, torch.Tensor]
    private_after: dict[str, torch.Tensor]

    def public_pixels(self, count: int) -> torch.Tensor:
        images, _ = self.public.batch(torch.arange(count), CPU)
        return self.pixel_range.pixels(images)


def digits(image_shape: tuple[int, int, int]) -> ClientData:
    return _DATASETS.client_data(DataSource(dataset="digits"), image_shape, 10)


def plan_of(method: str, model: str, shape: tuple[int, int, int], **settings: Any) -> TrainingPlan:
    return TrainingPlan(
        method=method, model=model, image_shape=shape, num_classes=10, hyperparameters=settings
    )


def observe(
    plan: TrainingPlan,
    positions: list[int],
    *,
    weights: dict[str, Array] | None = None,
    encoding: str = "factored",
    seed: int = 7,
) -> ObservedRound:
    """One round of a client with some of the digits, from the first weights by default."""
    method = build_method(plan, CPU, RESOURCES)
    parameters = method.parameters(seed=3)
    weights = weights or parameters.initial_values()
    data = digits(plan.image_shape)
    own = data.train.only(torch.tensor(positions))
    client = Participant("site", ClientData(own, data.test), method.initial_private(seed), seed, 0)
    (result,) = method.train([client], weights, 1, lambda: False)
    written = encoding_for(EncodingPlan.model_validate({"name": encoding}))
    wire = written.encode(result.deltas, {}, weights, parameters).wire
    observation = Observation(
        plan, weights, written.decode(wire, parameters), len(positions), TESTS_ALLOWED
    )
    pixel_range = PixelRange(*own.normalisation)
    images, labels = own.batch(torch.arange(len(own)), CPU)
    network = Network(plan, TESTS_ALLOWED)
    return ObservedRound(
        observation,
        network,
        pixel_range,
        pixel_range.pixels(images),
        labels,
        data.test,
        client.private,
        result.private,
    )
