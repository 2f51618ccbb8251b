"""Whether the noise that a federation agrees on keeps to its privacy budget."""

from __future__ import annotations

from shared.federation.hyperparameters import PrivateModelPlan, steps_per_epoch
from shared.federation.plans import TrainingPlan, plan_of
from shared.privacy_accountant import PrivacyBudget, check_noise_multiplier


def check_agreed_noise(training: TrainingPlan) -> None:
    """Takes a second, for its accountant. A plan that agrees on no noise says nothing to check.

    Raises:
        PrivacyBudgetError: an agreed noise multiplier is not enough, or none is.
    """
    if (privacy := training.privacy) is not None:
        check_noise_multiplier(privacy.noise_multiplier, privacy.budget)
        return
    known = plan_of(training.method)
    if known is None or not issubclass(known, PrivateModelPlan):
        return
    plan = known.model_validate(training.hyperparameters)
    if plan.sample_rate is not None and plan.noise_multiplier is not None:
        num_steps = plan.rounds * plan.epochs * steps_per_epoch(plan.sample_rate)
        budget = PrivacyBudget(plan.epsilon, plan.delta, plan.sample_rate, num_steps)
        check_noise_multiplier(plan.noise_multiplier, budget)
