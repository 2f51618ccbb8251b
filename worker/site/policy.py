"""What a federation asks for, held against the site's policy. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from shared.federation.hyperparameters import steps_per_epoch
from shared.federation.noise_rules import check_agreed_noise
from shared.federation.plans import KNOWN_METHODS, TrainingPlan, spreads_privacy_budget
from shared.federation.protection_plan import clients_needed
from shared.federation.specification import FederationSpecification
from shared.privacy_accountant import PrivacyBudgetError
from shared.secure_sum.layout import check_sum_fits
from worker.errors import ConfigError
from worker.site_policy import SitePolicy


class Verdict(StrEnum):
    """What becomes of one thing that a federation asks."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DEPENDS = "depends"
    """It is seen when the data is loaded, or round by round."""


@dataclass(frozen=True)
class Finding:
    """One member of a policy, and what a federation asks of it.

    Attributes:
        member: its name in the ``[policy]`` table.
        says: its value, for people.
        asks: what the federation asks for, for people.
        verdict: what becomes of it.
    """

    member: str
    says: str
    asks: str
    verdict: Verdict


def find(policy: SitePolicy, specification: FederationSpecification, digest: str) -> list[Finding]:
    """Every member of the policy in its order, held against a specification with this digest."""
    found = {finding.member: finding for finding in _find(policy, specification, digest)}
    return [found[member] for member in SitePolicy.model_fields]


def check_specification(
    policy: SitePolicy, specification: FederationSpecification, digest: str
) -> None:
    """Looks at a federation before anything that it names is built.

    Raises:
        ConfigError: the policy refuses it; names the member, what it says and what is asked. Or
            its sums do not fit, which its coordinator should have refused.
    """
    try:
        check_sum_fits(specification)
    except ValueError as error:
        raise ConfigError(f"federation {specification.name}: {error}") from error
    for finding in find(policy, specification, digest):
        if finding.verdict is Verdict.REFUSED:
            raise ConfigError(
                f"policy.{finding.member} is {finding.says}, and federation {specification.name} "
                f"asks for {finding.asks}"
            )


def check_examples(policy: SitePolicy, client: str, num_examples: int) -> None:
    """Raises ConfigError unless a client has as many training examples as the policy asks."""
    if num_examples < policy.minimum_examples:
        raise ConfigError(
            f"policy.minimum_examples is {policy.minimum_examples}, and client {client} has "
            f"{num_examples} training examples"
        )


def steps_of_round(training: TrainingPlan, num_examples: int) -> int | None:
    """Steps of what is shared, in a local round on so many examples; None if nobody can tell."""
    if training.privacy is not None and training.privacy.unit == "example":
        return 1
    if training.method not in KNOWN_METHODS:
        return None
    plan = training.hyperparameters
    rate = plan.get("sample_rate")
    if rate is not None:
        per_epoch = steps_per_epoch(float(rate))
    else:
        per_epoch = math.ceil(num_examples / int(plan["batch_size"]))
    return int(plan["epochs"]) * per_epoch


def shown_metrics(policy: SitePolicy, metrics: Mapping[str, float]) -> dict[str, float]:
    """What the policy lets leave of a method's numbers."""
    kept = {
        name: value
        for name, value in metrics.items()
        if policy.metrics == "all" or (policy.metrics != "none" and name in policy.metrics)
    }
    if policy.metric_digits is None:
        return kept
    return {name: round(value, policy.metric_digits) for name, value in kept.items()}


def _find(
    policy: SitePolicy, specification: FederationSpecification, digest: str
) -> Iterator[Finding]:
    training, rounds = specification.training, specification.round_policy
    yield _named("methods", policy.methods, f"method {training.method}", training.method)
    yield _named("models", policy.models, f"model {training.model}", training.model)
    yield _protection(policy, specification)
    yield _cohort(policy, specification)
    yield _peers(policy, specification)
    cohorts = "sums of one group of clients" if specification.protection else "no sums"
    yield _bound("maximum_cohorts", policy.maximum_cohorts, cohorts, None)
    yield Finding(
        "minimum_examples",
        str(policy.minimum_examples),
        "any number of training examples",
        Verdict.ACCEPTED if policy.minimum_examples == 1 else Verdict.DEPENDS,
    )
    yield _steps(policy, training)
    yield _epsilon(policy, training)
    yield _bound("rounds_per_day", policy.rounds_per_day, "rounds without a pause", None)
    is_everybody = rounds.cohort_size is None and rounds.cohort_fraction in (None, 1.0)
    asked = rounds.rounds if is_everybody else None
    yield _bound("rounds_in_all", policy.rounds_in_all, f"{rounds.rounds} rounds", asked)
    drop = policy.maximum_accuracy_drop
    yield _bound("maximum_accuracy_drop", drop, "weights of any accuracy", None)
    names = policy.metrics if isinstance(policy.metrics, str) else ", ".join(policy.metrics)
    yield Finding("metrics", names, "the method's metrics", Verdict.ACCEPTED)
    digits = "unset" if policy.metric_digits is None else str(policy.metric_digits)
    yield Finding("metric_digits", digits, "all digits", Verdict.ACCEPTED)
    own = "metrics of one client" if specification.protection is None else "the cohort's mean"
    yield Finding("own_metrics", str(policy.own_metrics).lower(), own, Verdict.ACCEPTED)
    told = str(policy.decline_text).lower()
    asks = "why a client takes no part in a round"
    yield Finding("decline_text", told, asks, Verdict.ACCEPTED)
    size = specification.parameters.size_bytes // 4
    yield _bound("max_model_parameters", policy.max_model_parameters, f"{size} parameters", size)
    yield _named(
        "approved_specifications", policy.approved_specifications, f"specification {digest}", digest
    )


def _named(member: str, allowed: Sequence[str], asks: str, name: str) -> Finding:
    fits = not allowed or any(fnmatchcase(name, pattern) for pattern in allowed)
    verdict = Verdict.ACCEPTED if fits else Verdict.REFUSED
    return Finding(member, ", ".join(allowed) or "empty", asks, verdict)


def _bound(member: str, largest: float | None, asks: str, asked: int | None) -> Finding:
    """A largest number; whether it is asked for is seen round by round where ``asked`` is None."""
    if largest is None:
        return Finding(member, "unset", asks, Verdict.ACCEPTED)
    if asked is None:
        return Finding(member, str(largest), asks, Verdict.DEPENDS)
    return Finding(
        member, str(largest), asks, Verdict.ACCEPTED if asked <= largest else Verdict.REFUSED
    )


def _protection(policy: SitePolicy, specification: FederationSpecification) -> Finding:
    protection = specification.protection
    asks = "updates that its coordinator sees" if protection is None else "secure sums"
    is_enough = policy.require_protection == "none" or protection is not None
    verdict = Verdict.ACCEPTED if is_enough else Verdict.REFUSED
    return Finding("require_protection", policy.require_protection, asks, verdict)


def _cohort(policy: SitePolicy, specification: FederationSpecification) -> Finding:
    rounds = specification.round_policy
    fewest = rounds.minimum_updates
    if specification.protection is not None:
        fewest = clients_needed(rounds.cohort_size or 0, fewest)
    verdict = Verdict.ACCEPTED if fewest >= policy.minimum_cohort else Verdict.REFUSED
    asks = f"weights made of {fewest} updates or more"
    return Finding("minimum_cohort", str(policy.minimum_cohort), asks, verdict)


def _peers(policy: SitePolicy, specification: FederationSpecification) -> Finding:
    wanted, size = policy.minimum_trusted_peers, specification.round_policy.cohort_size
    verdict, asks = Verdict.DEPENDS, "secure sums of whoever takes part"
    if specification.protection is None:
        verdict, asks = Verdict.ACCEPTED, "no secure sums"
    elif wanted == 0:
        verdict = Verdict.ACCEPTED
    elif size is not None and size <= wanted:
        verdict, asks = Verdict.REFUSED, f"secure sums of {size} clients, this one among them"
    return Finding("minimum_trusted_peers", str(wanted), asks, verdict)


def _steps(policy: SitePolicy, training: TrainingPlan) -> Finding:
    wanted = policy.minimum_steps
    of_one = steps_of_round(training, 1)
    if of_one is None:
        verdict, asks = Verdict.REFUSED, f"as many steps as method {training.method} makes"
    elif training.hyperparameters.get("sample_rate") is not None:
        verdict, asks = Verdict.REFUSED, f"{of_one} steps a round"
    else:
        batch_size = int(training.hyperparameters["batch_size"])
        needed = (math.ceil(wanted / of_one) - 1) * batch_size + 1
        verdict = Verdict.DEPENDS
        asks = f"{of_one} steps for each batch of {batch_size}: {needed} examples make enough"
    if training.privacy is not None:
        asks = "rounds whose noise hides what a step would show"
    if wanted <= (of_one or 1) or training.privacy is not None:
        verdict = Verdict.ACCEPTED
    return Finding("minimum_steps", str(wanted), asks, verdict)


def _epsilon(policy: SitePolicy, training: TrainingPlan) -> Finding:
    largest = policy.maximum_epsilon
    says = "unset" if largest is None else f"{largest:g}"
    known = KNOWN_METHODS.get(training.method)
    if known is not None and not known.shares:
        return Finding("maximum_epsilon", says, "no updates", Verdict.ACCEPTED)
    if training.privacy is None and not spreads_privacy_budget(training.method):
        verdict = Verdict.ACCEPTED if largest is None else Verdict.REFUSED
        return Finding("maximum_epsilon", says, "updates without noise of a known ε", verdict)
    try:
        check_agreed_noise(training)
    except PrivacyBudgetError as error:
        # A coordinator should have refused it, and this one may lie.
        asks = f"less noise than its own budget needs: {error}"
        return Finding("maximum_epsilon", says, asks, Verdict.REFUSED)
    privacy = training.privacy
    asked = privacy.epsilon if privacy else float(training.hyperparameters["epsilon"])
    unit = "one client" if privacy and privacy.unit == "client" else "one example"
    verdict = Verdict.ACCEPTED if largest is None or asked <= largest else Verdict.REFUSED
    return Finding("maximum_epsilon", says, f"ε {asked:g} for {unit}", verdict)
