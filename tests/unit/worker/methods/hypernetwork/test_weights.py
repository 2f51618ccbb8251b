"""Generated parameters, and the scale at which a hypernetwork starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from worker.methods.hypernetwork.weights import (
    HypernetworkWeights,
    expected_norm_squared,
    hidden_features,
    hypernetwork_parameters,
)
from worker.models.layout import ParameterLayout, TrainableTensor

TENSORS = [
    TrainableTensor("convolution.weight", (20, 10, 5, 5), 0.0, 0.05),
    TrainableTensor("normalisation.weight", (30,), 1.0, 0.0),
    TrainableTensor("linear.weight", (40, 50), 0.0, 0.2),
]
CPU = torch.device("cpu")


def parameters(output_spread: float = 0.1, feature_scale: float = 0.5):
    return hypernetwork_parameters(
        TENSORS,
        embedding_size=64,
        hidden_size=32,
        feature_scale=feature_scale,
        output_spread=output_spread,
        seed=5,
    )


def weights(**settings: float) -> HypernetworkWeights:
    specification = parameters(**settings)
    return HypernetworkWeights.from_arrays(specification.initial_values(), specification, CPU)


def test_generated_parameters_are_w_f_plus_b() -> None:
    start = weights()
    embedding = torch.randn(64)
    features = 0.5 * torch.relu(start.trunk_weight @ embedding + start.trunk_bias)
    theta = start.output_weight @ features + start.output_bias
    torch.testing.assert_close(start.generate(embedding, 0.5), theta)


def test_hidden_features_of_many_clients_at_once() -> None:
    trunk_weight, trunk_bias, embeddings = (
        torch.randn(3, 4, 2),
        torch.randn(3, 4),
        torch.randn(3, 2),
    )
    together = hidden_features(trunk_weight, trunk_bias, embeddings, 0.3)
    for client in range(3):
        alone = hidden_features(trunk_weight[client], trunk_bias[client], embeddings[client], 0.3)
        torch.testing.assert_close(together[client], alone)


@pytest.mark.parametrize("feature_scale", [0.1, 1.0])
def test_theta_starts_at_the_layers_own_scale_plus_a_small_part_of_the_client(
    feature_scale: float,
) -> None:
    start = weights(output_spread=0.1, feature_scale=feature_scale)
    layout = ParameterLayout(TENSORS)
    generator = torch.Generator().manual_seed(0)
    thetas = torch.stack(
        [start.generate(torch.randn(64, generator=generator), feature_scale) for _ in range(50)]
    )
    common = layout.split(start.output_bias)
    for tensor in TENSORS:
        deviation = tensor.bound / math.sqrt(3)
        own_part = torch.stack(
            [layout.split(theta)[tensor.name] - common[tensor.name] for theta in thetas]
        )
        assert float(common[tensor.name].mean()) == pytest.approx(tensor.centre, abs=0.01)
        assert float(common[tensor.name].std()) == pytest.approx(deviation, rel=0.05)
        assert float(own_part.square().mean().sqrt()) == pytest.approx(0.1 * deviation, rel=0.2)


def test_the_expected_norm_of_the_features() -> None:
    start = weights()
    generator = torch.Generator().manual_seed(0)
    norms = [
        float(
            hidden_features(
                start.trunk_weight, start.trunk_bias, torch.randn(64, generator=generator), 0.5
            )
            .square()
            .sum()
        )
        for _ in range(300)
    ]
    assert np.mean(norms) == pytest.approx(expected_norm_squared(64, 32, 0.5), rel=0.15)


def test_weights_with_other_names_or_shapes_are_refused() -> None:
    specification = parameters()
    values = specification.initial_values()
    with pytest.raises(ValueError, match="not shared by this federation: head"):
        HypernetworkWeights.from_arrays(values | {"head": np.zeros(1)}, specification, CPU)
    with pytest.raises(ValueError, match=r"trunk.bias has shape \(31,\), not \(32,\)"):
        HypernetworkWeights.from_arrays(
            values | {"hypernetwork.trunk.bias": np.zeros(31)}, specification, CPU
        )


def test_read_only_weights_are_taken_without_a_warning() -> None:
    specification = parameters()
    values = specification.initial_values()
    for array in values.values():
        array.flags.writeable = False
    HypernetworkWeights.from_arrays(values, specification, CPU)
