"""hyperfl-plus: equal to a plain loop with torch.kron, alone or in a group, and it starts well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.federation.hyperparameters import HyperFLPlusPlan
from shared.federation.plans import TrainingPlan
from shared.federation.sharing import KRONECKER_HYPERNETWORK
from tests.support import extractors
from tests.support.plain_hyperfl import PlainHypernetwork, plain_round
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.methods import build_method
from worker.methods.hyperfl_plus import HyperFLPlus
from worker.methods.hypernetwork.kronecker import closest_factors
from worker.methods.interface import Participant, SiteResources

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "batch_size": 5,
    "epochs": 2,
    "hidden_size": 3,
    "feature_dropout": 0.0,
}
SIZES = [one.numel() for one in extractors.TinyExtractor().parameters() if one.requires_grad]


def _method(resources: SiteResources = RESOURCES, **hyperparameters: Any) -> HyperFLPlus:
    plan = TrainingPlan(
        method="hyperfl-plus",
        model="tests.support.extractors:tiny",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters=SETTINGS | hyperparameters,
    )
    method = build_method(plan, CPU, resources)
    assert isinstance(method, HyperFLPlus)
    return method


def _participant(method: HyperFLPlus, index: int, num_train: int) -> Participant:
    private = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in method.initial_private(100 + index).items()
    }
    data = random_client_data(seed=index, num_train=num_train)
    return Participant(f"client-{index}", data, private, 100 + index)


def _weights(method: HyperFLPlus) -> dict[str, np.ndarray]:
    values = method.parameters(seed=3).initial_values()
    return {name: array.astype(np.float64) for name, array in values.items()}


class PlainKronecker(PlainHypernetwork):
    """φ and an embedding as parameters; each row of the output layer is built by torch.kron."""

    def __init__(
        self, weights: dict[str, torch.Tensor], embedding: torch.Tensor, feature_scale: float
    ) -> None:
        nn.Module.__init__(self)
        self.trunk_weight = nn.Parameter(weights["hypernetwork.trunk.weight"].clone())
        self.trunk_bias = nn.Parameter(weights["hypernetwork.trunk.bias"].clone())
        self.products = nn.ParameterList(
            nn.Parameter(weights[name].clone()) for name in KRONECKER_HYPERNETWORK[2:]
        )
        self.embedding = nn.Parameter(embedding.clone())
        self.feature_scale = feature_scale

    def forward(self) -> torch.Tensor:
        shapes = [closest_factors(size) for size in SIZES]
        sizes = [[left for left, _ in shapes], [right for _, right in shapes]] * 2
        factors = [one.split(size) for one, size in zip(self.products, sizes, strict=True)]
        features = self.hidden()
        tensors = []
        for left, right, bias_left, bias_right in zip(*factors, strict=True):
            rows = [torch.kron(left[:, k], right[:, k]) for k in range(len(features))]
            tensors.append(features @ torch.stack(rows) + torch.kron(bias_left, bias_right))
        return torch.cat(tensors)

    def shared(self) -> dict[str, torch.Tensor]:
        values = [self.trunk_weight, self.trunk_bias, *self.products]
        return dict(zip(KRONECKER_HYPERNETWORK, values, strict=True))


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {},
        {"clip_norm": 0.01, "momentum": 0.9, "weight_decay": 0.2, "feature_scale": 0.5},
        {"training_head": "public", "decay_rounds": 6, "head_epochs": 2},
    ],
)
def test_a_round_of_two_clients_equals_the_plain_loop(hyperparameters: dict[str, Any]) -> None:
    method = _method(**hyperparameters)
    plan = HyperFLPlusPlan(**SETTINGS, **hyperparameters)
    weights = _weights(method)
    group = [_participant(method, index, num_train) for index, num_train in enumerate([8, 13])]
    results = {one.participant: one for one in method.train(group, weights, 4, lambda: False)}
    for participant in group:
        found = results[participant.name]
        expected = plain_round(
            participant, weights, extractors.TinyExtractor(), plan, 4, PlainKronecker
        )
        assert list(found.deltas) == list(KRONECKER_HYPERNETWORK)
        for name, after in expected.weights.items():
            np.testing.assert_allclose(
                weights[name] + found.deltas[name], after, rtol=1e-10, atol=1e-10, err_msg=name
            )
        for name, tensor in expected.private.items():
            torch.testing.assert_close(found.private[name], tensor, rtol=1e-10, atol=1e-10)
        for name, value in expected.metrics.items():
            assert found.metrics[name] == pytest.approx(value, rel=1e-8), name


def test_a_group_without_memory_trains_one_client_after_the_other() -> None:
    weights = _weights(_method())
    results = []
    for resources in (RESOURCES, replace(RESOURCES, max_factor_bytes=1)):
        method = _method(resources)
        group = [_participant(method, index, 8) for index in range(3)]
        results.append(list(method.train(group, weights, 1, lambda: False)))
    together, apart = results
    for one, other in zip(together, apart, strict=True):
        assert one.participant == other.participant
        for name, delta in one.deltas.items():
            np.testing.assert_allclose(delta, other.deltas[name], rtol=1e-10, atol=1e-10)


def test_it_starts_at_the_extractors_own_scale_and_clients_close_together() -> None:
    plan = TrainingPlan(
        method="hyperfl-plus", model="cnn-mnist", image_shape=(1, 28, 28), num_classes=10
    )
    method = HyperFLPlus(plan, CPU)
    weights = method.read(method.parameters(seed=3).initial_values())
    thetas = torch.stack(
        [weights.generate(method.initial_private(seed)["embedding"], 1.0) for seed in range(20)]
    )
    # Linear(800, 128) has its weights last but one, uniform in ±1/√800 where nothing generates it.
    linear = thetas[:, -128 * 801 : -128]
    assert float(linear.std()) == pytest.approx(1 / (800 * 3) ** 0.5, rel=0.1)
    apart = (linear - linear.mean(dim=0)).std() / linear.std()
    assert float(apart) == pytest.approx(0.1, rel=0.3)


def test_a_normalisation_starts_as_the_identity_and_can_be_trained() -> None:
    method = _method(epochs=1)
    weights = _weights(method)
    (result,) = method.train([_participant(method, 0, 13)], weights, 1, lambda: False)
    before = method.read(weights)
    after = method.read({name: one + result.deltas[name] for name, one in weights.items()})
    embedding = result.private["embedding"]
    named = dict(
        zip(
            [name for name, _ in extractors.TinyExtractor().named_parameters()],
            zip(
                before.generate(embedding, 1.0).split(SIZES),
                after.generate(embedding, 1.0).split(SIZES),
                strict=True,
            ),
            strict=True,
        )
    )
    start, end = named["normalisation.weight"]
    torch.testing.assert_close(start, torch.ones_like(start))
    assert not torch.allclose(start, end)


def test_features_can_be_computed_from_one_step() -> None:
    """docs/methods.md says so: an update hides a client's extractor no better than HyperFL's."""
    method = _method(epochs=1, batch_size=100)
    plan = HyperFLPlusPlan()
    weights = _weights(method)
    participant = _participant(method, 0, 13)
    (result,) = method.train([participant], weights, 1, lambda: False)
    # Weight decay is known.
    gradients = {
        name: delta + plan.learning_rate * plan.weight_decay * weights[name]
        for name, delta in result.deltas.items()
    }
    trunk_weight, trunk_bias, left, _, _, bias_right = (
        weights[name] for name in KRONECKER_HYPERNETWORK
    )
    features = np.maximum(trunk_weight @ participant.private["embedding"].numpy() + trunk_bias, 0)
    found = (gradients["hypernetwork.output.right"].T @ bias_right) / (
        left.T @ gradients["hypernetwork.output.bias_left"]
    )
    np.testing.assert_allclose(found, features, rtol=1e-8)


@pytest.mark.parametrize(("size", "factors"), [(102_400, (320, 320)), (12_800, (100, 128))])
def test_factors_are_as_close_as_can_be(size: int, factors: tuple[int, int]) -> None:
    assert closest_factors(size) == factors
    assert closest_factors(13) == (1, 13)
