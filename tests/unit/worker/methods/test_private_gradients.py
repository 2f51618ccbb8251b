"""Clipping is exact, noise has the scale that the accountant asks for."""

from __future__ import annotations

import pytest
import torch
from opacus.accountants import RDPAccountant
from pydantic import ValidationError

from shared.plans import PrivateModelPlan
from worker.methods.privacy_accountant import PrivacyBudgetError, noise_multiplier
from worker.methods.private_gradients import ClippedGradients, add_noise
from worker.methods.random_streams import client_generator


def test_each_examples_gradient_is_clipped_over_all_tensors_together() -> None:
    parameters = {"a": torch.zeros(1), "b": torch.zeros(1)}
    # The gradient of an example is the example itself: norms 5, 0.5 and 0.
    examples = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])

    def function(tensors, images):
        return images @ torch.cat([tensors["a"], tensors["b"]])

    run = ClippedGradients(function, parameters, 1.0).run(examples)
    sums = run.clipped_sum(run.outputs)
    torch.testing.assert_close(sums, {"a": torch.tensor([0.9]), "b": torch.tensor([1.2])})


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


def test_the_plans_least_epsilon_is_the_accountants() -> None:
    def sigma(epsilon: float) -> float:
        return noise_multiplier(epsilon=epsilon, delta=1e-5, sample_rate=1e-4, num_steps=1)

    with pytest.raises(PrivacyBudgetError, match=r"epsilon 0\.1028 at delta 1e-05 in 1 steps"):
        sigma(0.1028)
    assert sigma(0.1029) > 0
    with pytest.raises(ValidationError, match="not even in one"):
        PrivateModelPlan(rounds=1, epsilon=0.1028)
    PrivateModelPlan(rounds=1, epsilon=0.1029)


@pytest.mark.parametrize(
    ("epsilon", "sample_rate", "num_steps"), [(4.0, 50 / 600, 900), (1.0, 0.01, 5000), (8.0, 1, 10)]
)
def test_sigma_keeps_to_the_budget_and_wastes_little_of_it(
    epsilon: float, sample_rate: float, num_steps: int
) -> None:
    sigma = noise_multiplier(
        epsilon=epsilon, delta=1e-5, sample_rate=sample_rate, num_steps=num_steps
    )
    accountant = RDPAccountant()
    accountant.history = [(sigma, sample_rate, num_steps)]
    assert epsilon - 0.011 < accountant.get_epsilon(delta=1e-5) <= epsilon
