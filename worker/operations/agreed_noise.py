"""The noise and the sample rate that a federation's clients agree on at its creation."""

from __future__ import annotations

from typing import Any

from shared.federation.plans import (
    KNOWN_METHODS,
    PrivateModelPlan,
    plan_of,
    spreads_privacy_budget,
    steps_per_epoch,
)
from worker.errors import ConfigError
from worker.methods.privacy.accountant import sufficient_noise_multiplier


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
    sigma = sufficient_noise_multiplier(
        plan.noise_multiplier,
        epsilon=plan.epsilon,
        delta=plan.delta,
        sample_rate=rate,
        num_steps=plan.rounds * plan.epochs * steps_per_epoch(rate),
    )
    return hyperparameters | {"sample_rate": rate, "noise_multiplier": sigma}
