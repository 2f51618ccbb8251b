"""Generated tensors start in the range of the layer they belong to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from worker.models.initial_ranges import generated_tensors


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3)
        self.transposed = nn.ConvTranspose2d(4, 3, 2)
        self.normalisation = nn.BatchNorm2d(3)
        self.linear = nn.Linear(6, 5)
        self.token = nn.Parameter(torch.randn(10_000) * 0.02 + 0.5)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)


def test_names_shapes_and_order_are_the_modules() -> None:
    module = Mixed()
    tensors = generated_tensors(module)
    expected = [(n, tuple(p.shape)) for n, p in module.named_parameters() if n != "frozen"]
    assert [(tensor.name, tensor.shape) for tensor in tensors] == expected


@pytest.mark.parametrize("name", ["convolution", "transposed", "linear"])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_linear_and_convolutional_layers_start_as_by_default(name: str, part: str) -> None:
    module = Mixed()
    tensor = {t.name: t for t in generated_tensors(module)}[f"{name}.{part}"]
    assert tensor.centre == 0
    # The bound that torch drew from holds all its values, and nearly reaches the largest.
    layers = [getattr(Mixed(), name) for _ in range(20)]
    largest = max(float(layer.get_parameter(part).detach().abs().max()) for layer in layers)
    assert 0.9 * tensor.bound <= largest <= tensor.bound * (1 + 1e-6)


def test_normalisation_layers_start_as_constants() -> None:
    tensors = {t.name: t for t in generated_tensors(Mixed())}
    weight, bias = tensors["normalisation.weight"], tensors["normalisation.bias"]
    assert (weight.centre, weight.bound) == (1, 0)
    assert (bias.centre, bias.bound) == (0, 0)


def test_layers_that_are_set_to_a_constant_start_so() -> None:
    module = Mixed()
    nn.init.zeros_(module.linear.weight)
    nn.init.constant_(module.convolution.bias, 0.5)
    tensors = {t.name: t for t in generated_tensors(module)}
    ranges = {name: (tensors[name].centre, tensors[name].bound) for name in tensors}
    assert ranges["linear.weight"] == (0, 0)
    assert ranges["convolution.bias"] == (0.5, 0)
    assert ranges["linear.bias"][1] > 0


def test_other_parameters_are_measured_to_three_digits() -> None:
    token = {t.name: t for t in generated_tensors(Mixed())}["token"]
    assert token.centre == pytest.approx(0.5, abs=0.01)
    assert token.bound == pytest.approx(0.02 * math.sqrt(3), rel=0.05)
    assert token.bound == float(f"{token.bound:.3g}")


def test_a_shared_parameter_is_generated_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert [tensor.name for tensor in generated_tensors(module)] == [
        "0.weight",
        "0.bias",
        "1.bias",
    ]
