"""What a protected federation cannot have at the same time, each with the reason."""

from __future__ import annotations

from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.plans import KNOWN_METHODS, TrainingPlan
from shared.federation.protection_plan import SMALLEST_COHORT, ProtectionPlan


def check_protection(
    protection: ProtectionPlan,
    training: TrainingPlan,
    aggregation: AggregationPlan,
    *,
    encoding: str,
    on_excess: str | None,
    max_examples_weight: int | None,
    minimum_updates: int,
) -> None:
    """Raises ValueError unless a federation can be summed under masks.

    ``on_excess`` is None where no ``max_update_norm`` is set.
    """
    if aggregation.rule != "mean":
        raise ValueError(
            f"aggregation {aggregation.rule} compares clients' updates, "
            "and a secure sum shows none: use mean"
        )
    if encoding != "dense":
        raise ValueError(
            f"encoding {encoding} writes updates as factors, which have no sum: use dense"
        )
    if on_excess == "reject":
        raise ValueError(
            "on_excess reject judges each client's update, and a secure sum shows none: use clip, "
            "which each client promises to do itself"
        )
    if max_examples_weight is None:
        raise ValueError(
            "a secure sum needs round_policy.max_examples_weight: the scale of what is summed"
        )
    if minimum_updates < SMALLEST_COHORT:
        raise ValueError(
            f"a secure sum of {minimum_updates} clients would show each to the others: "
            f"minimum_updates must be at least {SMALLEST_COHORT}"
        )
    if minimum_updates > (1 << (protection.bits - 1)) - 1:
        raise ValueError(f"{protection.bits} bits cannot hold a sum of {minimum_updates} clients")
    if not protection.allow_separable:
        _check_inseparable(training)


def _check_inseparable(training: TrainingPlan) -> None:
    known = KNOWN_METHODS.get(training.method)
    if known is None or "kronecker hypernetwork" in known.shares:
        raise ValueError(
            f"whether the sum of method {training.method}'s updates can be taken apart is not "
            "known: say allow_separable to sum them all the same"
        )
    shared_part = training.hyperparameters.get("shared_part")
    if "hypernetwork" in known.shares and shared_part != "output-bias":
        remedy = "say allow_separable to sum them all the same"
        if shared_part is not None:
            remedy = (
                "use training.hyperparameters.shared_part = output-bias, or say allow_separable"
            )
        raise ValueError(
            "the sum of clients' hypernetwork updates can be taken apart into each client's part: "
            + remedy
        )
