"""Federations whose sums, or single updates, have noise."""

from __future__ import annotations

from typing import Any

from shared.federation.specification import FederationSpecification
from tests.support.sum_members import protected_specification

COHORT_SIZE = 5


def private_specification(
    privacy: dict[str, Any] | None = None,
    *,
    protection: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    **training: Any,
) -> FederationSpecification:
    """A shared vector of 4 numbers; without masks where ``protection`` is empty."""
    sizes = {"cohort_size": COHORT_SIZE} | (policy or {})
    document = protected_specification(**sizes).document
    settings = {"rounds": 2, "noise_multiplier": 3.0} | (privacy or {})
    document["training"] |= {"privacy": settings} | training
    if protection is None:
        document["protection"]["bits"] = 28
    else:
        document["protection"] = protection or None
    return FederationSpecification.model_validate(document)
