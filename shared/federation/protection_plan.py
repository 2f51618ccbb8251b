"""What a federation promises its sites beside the transport: nothing more, or a secure sum."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SMALLEST_COHORT = 3
"""Of two clients' sum, each knows the other's part."""
LARGEST_COHORT = 2_000
"""Each of its clients sends each other two shares: four million of them a round."""


class ProtectionPlan(BaseModel):
    """Updates are summed under masks: the coordinator learns the cohort's sum and no part of it.

    PROTOCOL.md, section "Secure sum", is normative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["secure-sum"] = "secure-sum"
    bits: int = Field(default=20, ge=8, le=32)
    """Of each value on the wire. A sum of n clients resolves n · bound / 2^(bits − 1)."""
    bound: float = Field(default=0.5, gt=0.0, le=1e6)
    """Largest magnitude of a value's change in a round; what is cut off follows in later rounds."""
    phase_seconds: float = Field(default=300.0, gt=0.0, le=86400.0)
    """Time for each exchange of keys, confirmations, shares; training has ``deadline_seconds``."""
    allow_separable: bool = False
    """Sum also what can be taken apart again: a hypernetwork's every tensor (docs/privacy.md)."""


def clients_needed(cohort_size: int, minimum_updates: int) -> int:
    """Clients of a cohort without whom a protected round fails, in each of its phases."""
    return max(minimum_updates, threshold_of(cohort_size))


def threshold_of(cohort_size: int) -> int:
    """Clients of a cohort that must answer until the end: more than two thirds.

    So two sets of survivors have more than a third of the cohort in common, who confirm only one.
    """
    return 2 * cohort_size // 3 + 1


def fewer_than_a_third(cohort_size: int) -> int:
    """Most clients that may help the coordinator where a secure sum is to hold."""
    return (cohort_size - 1) // 3
