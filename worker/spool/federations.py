"""Which federations a spool can serve, and which leave its jobs too little time."""

from __future__ import annotations

from shared.federation.specification import RoundPolicy
from shared.rest.schema import FederationView
from worker.errors import ConfigError

_LONGEST_LEASE_SECONDS = 86400.0
"""That a specification may say."""


def check_can_be_spooled(federation: FederationView) -> None:
    """Raises ConfigError for a secure sum, whose members answer each other while a round lasts."""
    if federation.checked_specification().protection is not None:
        raise ConfigError(
            f"federation {federation.name} has secure sums, whose members answer in four phases of "
            "a round: that needs a network, so use `hyperfl worker run`"
        )


def too_short(federation: str, policy: RoundPolicy, queue_seconds: float) -> list[str]:
    """What of a federation's times is less than a job waits in its queue and trains: lines."""
    lines = []
    if policy.deadline_seconds < queue_seconds:
        lines.append(
            f"federation {federation} ends a round after {policy.deadline_seconds:g} s, and jobs "
            f"take {queue_seconds:g} s: they come too late. Ask its administrator for "
            f"deadline_seconds of {queue_seconds:g} or more"
        )
    if policy.lease_seconds < queue_seconds:
        wanted = min(queue_seconds, _LONGEST_LEASE_SECONDS)
        lines.append(
            f"leases of federation {federation} last {policy.lease_seconds:g} s, and jobs take "
            f"{queue_seconds:g} s: keep `hyperfl worker send --wait` running, or ask its "
            f"administrator for lease_seconds of {wanted:g} or more"
        )
    return lines
