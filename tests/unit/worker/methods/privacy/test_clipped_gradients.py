"""Clipping is exact, noise has the scale that is asked for."""

from __future__ import annotations

import pytest
import torch

from worker.methods.local_round.random_streams import client_generator
from worker.methods.privacy.clipped_gradients import ClippedGradients, add_noise


def test_each_examples_gradient_is_clipped_over_all_tensors_together() -> None:
    parameters = {"a": torch.zeros(1), "b": torch.zeros(1)}
    # The gradient of an example is the example itself: norms 5, 0.5 and 0.
    examples = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])

    def function(tensors, images):
        return images @ torch.cat([tensors["a"], tensors["b"]])

    run = ClippedGradients(function, parameters, 1.0).run(examples)
    sums = run.clipped_sum(run.outputs)
    torch.testing.assert_close(sums, {"a": torch.tensor([0.9]), "b": torch.tensor([1.2])})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e38])
def test_an_example_whose_gradient_is_no_number_counts_as_zeros(value: float) -> None:
    parameters = {"weight": torch.eye(2), "bias": torch.zeros(2), "scale": torch.ones(1)}
    good = torch.tensor([[0.03, 0.04]])
    images = torch.cat([good, torch.full((1, 2), value)])

    def function(tensors, images):
        layer = torch.nn.functional.linear(images, tensors["weight"], tensors["bias"])
        return (layer.square() * tensors["scale"]).sum(dim=1)

    alone = ClippedGradients(function, parameters, 1.0).run(good)
    both = ClippedGradients(function, parameters, 1.0).run(images)
    expected = alone.clipped_sum(alone.outputs)
    torch.testing.assert_close(both.clipped_sum(both.outputs), expected)


def test_noise_is_gaussian_with_the_scale_asked_for_and_independent() -> None:
    count = 40_000
    known = {"a": torch.full((count,), 2.0), "b": torch.zeros(count)}
    noisy = add_noise(known, 0.08, client_generator(1, "noise"))
    noise = torch.stack([noisy[name] - known[name] for name in known])
    error = 0.08 / (2 * count) ** 0.5
    assert abs(float(noise.mean())) < 5 * error
    assert float(noise.std()) == pytest.approx(0.08, rel=0.02)
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.03
    assert float((noise.abs() < 0.08).double().mean()) == pytest.approx(0.6827, abs=0.01)
