"""The noise that keeps to a budget, and the budgets that none keeps to."""

from __future__ import annotations

import pytest
from opacus.accountants import RDPAccountant
from pydantic import ValidationError

from shared.federation.plans import PrivateModelPlan
from worker.errors import PrivacyBudgetError
from worker.methods.privacy.accountant import noise_multiplier


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
