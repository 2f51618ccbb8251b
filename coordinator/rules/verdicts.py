"""What a round or a federation does next, given the facts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from shared.federation.specification import RoundPolicy
from shared.rest.schema import (
    RoundPhase,
    TaskKind,
)


@dataclass(frozen=True)
class RoundFacts:
    """What decides a live round's fate."""

    kind: TaskKind
    phase: RoundPhase
    deadline_at: datetime
    lease_expires_at: datetime | None
    submitted: int
    outstanding: int
    """Clients of the cohort, not revoked, that have not submitted."""


def deadline_from(start: datetime, policy: RoundPolicy, submitted: int = 0) -> datetime:
    """The end of a round that opens at ``start``, or goes on then after a pause of any length.

    A round that goes on may have updates.
    """
    deadline_at = start + timedelta(seconds=policy.deadline_seconds)
    if policy.grace_seconds is None or submitted < policy.minimum_updates:
        return deadline_at
    return min(deadline_at, start + timedelta(seconds=policy.grace_seconds))


def early_end(policy: RoundPolicy, submitted: int, now: datetime) -> datetime | None:
    """The end that the update recorded ``now`` gives its round; None if it leaves the deadline.

    One update of a round makes the quorum, and those after it give nobody more time or less.
    """
    if policy.grace_seconds is None or submitted != policy.minimum_updates:
        return None
    return now + timedelta(seconds=policy.grace_seconds)


class Verdict(Enum):
    """What to do with a live round."""

    WAIT = auto()
    AGGREGATE = auto()
    FAIL = auto()


def judge(facts: RoundFacts, policy: RoundPolicy, now: datetime) -> tuple[Verdict, str]:
    """What to do with a live round, and why."""
    if facts.phase is RoundPhase.AGGREGATING:
        if facts.lease_expires_at is not None and now < facts.lease_expires_at:
            return Verdict.WAIT, "being aggregated"
        return Verdict.AGGREGATE, "the coordinator that aggregated it stopped"
    if facts.outstanding and now < facts.deadline_at:
        return Verdict.WAIT, f"waiting for {facts.outstanding} updates"
    needed = policy.minimum_updates if facts.kind is TaskKind.TRAIN else 0
    if facts.submitted >= needed:
        return Verdict.AGGREGATE, "complete" if not facts.outstanding else "deadline with quorum"
    return (
        Verdict.FAIL,
        f"{facts.submitted} updates at the end of the round, {needed} needed",
    )


@dataclass(frozen=True)
class FederationFacts:
    """What decides a running federation's next step when it has no live round."""

    weights_version: int
    failed_rounds: int
    final_evaluation_done: bool
    enrolled_clients: int
    last_failure: str | None = None
    """Why the newest round failed, if it did."""


@dataclass(frozen=True)
class OpenRound:
    """A round of this kind is due."""

    kind: TaskKind


@dataclass(frozen=True)
class WaitForClients:
    """Nothing can be done yet."""

    reason: str


@dataclass(frozen=True)
class Complete:
    """Every planned round is committed."""


@dataclass(frozen=True)
class GiveUp:
    """Rounds keep failing; an administrator has to look."""

    reason: str


Step = OpenRound | WaitForClients | Complete | GiveUp


def next_step(facts: FederationFacts, policy: RoundPolicy) -> Step:
    """What a running federation without a live round does next."""
    trained = facts.weights_version >= policy.rounds
    if trained and (facts.final_evaluation_done or not policy.evaluate_final):
        return Complete()
    if facts.failed_rounds > policy.max_failed_rounds:
        why = "" if facts.last_failure is None else f"; the last: {facts.last_failure}"
        return GiveUp(f"{facts.failed_rounds} rounds failed in a row{why}")
    missing = policy.clients_needed - facts.enrolled_clients
    if missing > 0:
        return WaitForClients(f"waiting for {missing} more clients to enrol")
    return OpenRound(TaskKind.EVALUATE if trained else TaskKind.TRAIN)
