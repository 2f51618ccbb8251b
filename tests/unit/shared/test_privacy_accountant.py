"""The noise that keeps to a budget, and the budgets that none keeps to."""

from __future__ import annotations

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from shared.privacy_accountant import (
    PrivacyBudget,
    PrivacyBudgetError,
    check_noise_multiplier,
    epsilon_spent,
    least_noise_multiplier,
)


def gaussian_epsilon(sigma: float, delta: float, num_steps: int) -> float:
    """Exactly, without sampling: Balle and Wang, ICML 2018, of one step with σ/√steps."""
    mu = math.sqrt(num_steps) / sigma

    def excess(epsilon: float) -> float:
        tail = norm.cdf(mu / 2 - epsilon / mu)
        return float(tail - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(brentq(excess, 0.0, 200.0))


@pytest.mark.parametrize(("sigma", "num_steps"), [(4.65, 60), (2.0, 3), (0.8, 1)])
def test_without_sampling_the_accountant_is_the_exact_gaussian(
    sigma: float, num_steps: int
) -> None:
    spent = epsilon_spent(sigma, delta=1e-5, sample_rate=1.0, num_steps=num_steps)
    exact = gaussian_epsilon(sigma, 1e-5, num_steps)
    assert exact <= spent <= 1.002 * exact


def test_sampling_spends_less_and_nothing_is_spent_without_a_step() -> None:
    def spent(rate: float, num_steps: int) -> float:
        return epsilon_spent(1.0, delta=1e-5, sample_rate=rate, num_steps=num_steps)

    assert spent(0.01, 100) < spent(0.1, 100) < spent(1.0, 100)
    assert spent(1.0, 0) == 0.0


@pytest.mark.parametrize(
    "budget",
    [
        PrivacyBudget(4.0, 1e-5, 50 / 600, 900),
        PrivacyBudget(1.0, 1e-5, 0.01, 5000),
        PrivacyBudget(8.0, 1e-5, 1.0, 60),
        PrivacyBudget(0.1, 1e-5, 0.1, 10),
    ],
)
def test_sigma_keeps_to_the_budget_and_wastes_little_of_it(budget: PrivacyBudget) -> None:
    sigma = least_noise_multiplier(budget)
    check_noise_multiplier(sigma, budget)
    with pytest.raises(PrivacyBudgetError, match="needs a noise multiplier of"):
        check_noise_multiplier(0.99 * sigma, budget)


def test_a_budget_that_no_noise_keeps_to_is_named() -> None:
    with pytest.raises(PrivacyBudgetError, match=r"no amount of noise keeps to epsilon 1e-06 at"):
        least_noise_multiplier(PrivacyBudget(1e-6, 1e-5, 1.0, 1000))
