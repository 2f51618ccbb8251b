"""A federation's specification in sentences: what its rounds do, and what they keep to. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.page.wording import count, in_seconds
from shared.federation.specification import FederationSpecification, RoundPolicy


def in_words(specification: FederationSpecification) -> list[str]:
    """What the round policy, the rule of aggregation and the protection say, a fact a sentence."""
    return [
        *_rounds(specification.round_policy),
        *_waiting(specification.round_policy),
        *_limits(specification),
        *_protection(specification),
    ]


def _rounds(policy: RoundPolicy) -> Iterator[str]:
    ends = "; then all clients evaluate the final weights" if policy.evaluate_final else ""
    yield f"{_many(policy.rounds, 'round')} of training{ends}."
    if policy.cohort_size is not None:
        yield f"{_many(policy.cohort_size, 'enrolled client')} drawn for each round."
    elif policy.cohort_fraction is not None and policy.cohort_fraction < 1:
        yield f"{100 * policy.cohort_fraction:g} % of the enrolled clients drawn for each round."
    else:
        yield "Every enrolled client takes part in each round."


def _waiting(policy: RoundPolicy) -> Iterator[str]:
    quorum = _many(policy.minimum_updates, "update")
    yield (
        f"A round ends when all have answered, and after {in_seconds(policy.deadline_seconds)} at "
        f"the latest. With fewer than {quorum} it fails."
    )
    if policy.grace_seconds is not None:
        grace = in_seconds(policy.grace_seconds)
        yield f"Once it has {quorum} it waits {grace} for more."
    yield f"Work is offered again after {in_seconds(policy.lease_seconds)} without a heartbeat."
    failed = _many(policy.max_failed_rounds + 1, "failed round")
    yield f"The federation pauses after {failed} in a row."


def _limits(specification: FederationSpecification) -> Iterator[str]:
    policy, plan = specification.round_policy, specification.aggregation
    if plan.rule != "mean":
        yield f"Updates are aggregated by the rule {plan.rule}, all clients alike."
    elif policy.max_examples_weight is not None:
        most = _many(policy.max_examples_weight, "example")
        yield f"Updates are averaged by number of examples, {most} at most."
    else:
        yield "Updates are averaged by number of examples."
    if policy.max_update_norm is not None:
        what = "scaled down" if policy.on_excess == "clip" else "left out"
        yield f"A change with a norm beyond {policy.max_update_norm:g} is {what}."
    if policy.max_relative_norm is None:
        yield "A change may have any finite norm."
    else:
        times = f"{policy.max_relative_norm:g} times the weights' norm"
        yield f"A change beyond {times} is refused."


def _protection(specification: FederationSpecification) -> Iterator[str]:
    if specification.protection is not None:
        yield "Updates are summed under masks: this coordinator sees the sum of a cohort alone."
    privacy = specification.training.privacy
    if privacy is not None:
        yield f"Noise keeps to ε {privacy.epsilon:g} with δ {privacy.delta:g}."


def _many(number: int, thing: str) -> str:
    return f"{count(number)} {thing}{'' if number == 1 else 's'}"
