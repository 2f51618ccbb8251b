"""The noise and the sample rate that a federation's clients agree on at its creation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from shared.federation.hyperparameters import PrivateModelPlan, steps_per_epoch
from shared.federation.plans import KNOWN_METHODS, plan_of, spreads_privacy_budget
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.specification import RoundPolicy
from shared.privacy_accountant import (
    PrivacyBudget,
    check_noise_multiplier,
    least_noise_multiplier,
)
from shared.validation import first_fault
from worker.errors import ConfigError


def with_agreed_noise(
    method: str, hyperparameters: dict[str, Any], examples_per_client: int | None
) -> dict[str, Any]:
    """The hyperparameters with ``sample_rate`` and ``noise_multiplier``, where they can be known.

    Args:
        method: its name.
        hyperparameters: as given, with what the method needs.
        examples_per_client: training examples of a client that trains in whole batches; others
            train at the same rate. None keeps what is given.

    Raises:
        ConfigError: these settings do not go together.
        PrivacyBudgetError: no noise keeps to the budget, or that given does not.
        pydantic.ValidationError: a hyperparameter cannot be.
    """
    known = plan_of(method)
    if known is None or not issubclass(known, PrivateModelPlan):
        if examples_per_client is not None:
            fitting = ", ".join(name for name in KNOWN_METHODS if spreads_privacy_budget(name))
            raise ConfigError(
                f"--examples-per-client is for the methods {fitting}, not for {method}"
            )
        return hyperparameters
    plan = known.model_validate(hyperparameters)
    rate = plan.sample_rate
    if examples_per_client is not None:
        if rate is not None:
            raise ConfigError(
                "give --examples-per-client, or sample_rate and noise_multiplier, not both"
            )
        rate = plan.batch_size / examples_per_client
        if rate > 1:
            raise ConfigError(
                f"batch_size {plan.batch_size} with {examples_per_client} examples per client is "
                f"a sample rate of {rate:.4g}, which is more than 1"
            )
    if rate is None:
        return hyperparameters
    num_steps = plan.rounds * plan.epochs * steps_per_epoch(rate)
    budget = PrivacyBudget(plan.epsilon, plan.delta, rate, num_steps)
    sigma = plan.noise_multiplier
    if sigma is None:
        sigma = least_noise_multiplier(budget)
    else:
        check_noise_multiplier(sigma, budget)
    return hyperparameters | {"sample_rate": rate, "noise_multiplier": sigma}


def privacy_plan(
    settings: Mapping[str, Any] | None, round_policy: RoundPolicy
) -> PrivacyPlan | None:
    """The plan of these settings, with the least noise that keeps to it; None for None.

    The budget is for the policy's rounds, unless the settings have more.

    Raises:
        ConfigError: a setting cannot be.
        PrivacyBudgetError: no noise keeps to the budget, or that given does not.
    """
    if settings is None:
        return None
    given = {"rounds": round_policy.rounds} | dict(settings)
    try:
        plan = PrivacyPlan.model_validate({"noise_multiplier": 1.0} | given)
    except ValidationError as error:
        raise ConfigError(f"training.privacy.{first_fault(error)}") from error
    if "noise_multiplier" in given:
        check_noise_multiplier(plan.noise_multiplier, plan.budget)
        return plan
    return plan.model_copy(update={"noise_multiplier": least_noise_multiplier(plan.budget)})
