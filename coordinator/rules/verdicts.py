"""What a round or a federation does next, given the facts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from coordinator.rules.phases import EXCHANGE_TASKS
from shared.federation.protection_plan import clients_needed
from shared.federation.specification import FederationSpecification, RoundPolicy
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
    """Clients of the cohort, not revoked nor dropped, that have not submitted."""
    declined: int = 0
    cohort_size: int = 0
    is_protected: bool = False
    """Its updates are summed under masks."""

    def quorum(self, policy: RoundPolicy) -> int:
        """Updates that are enough for it, of whatever kind it is."""
        if self.is_protected:
            return clients_needed(self.cohort_size, policy.minimum_updates)
        return policy.minimum_updates


def deadline_from(
    start: datetime,
    phase: RoundPhase,
    specification: FederationSpecification,
    facts: RoundFacts | None = None,
) -> datetime:
    """The end of a phase that begins at ``start``, or goes on then after a pause of any length.

    One that goes on has ``facts``, and may have updates.
    """
    protection, policy = specification.protection, specification.round_policy
    if protection is not None and phase in EXCHANGE_TASKS:
        return start + timedelta(seconds=protection.phase_seconds)
    deadline_at = start + timedelta(seconds=policy.deadline_seconds)
    if policy.grace_seconds is None or facts is None or facts.submitted < facts.quorum(policy):
        return deadline_at
    return min(deadline_at, start + timedelta(seconds=policy.grace_seconds))


def early_end(facts: RoundFacts, policy: RoundPolicy, now: datetime) -> datetime | None:
    """The end that the update recorded ``now`` gives its round; None if it leaves the deadline.

    One update of a round makes the quorum, and those after it give nobody more time or less.
    """
    if policy.grace_seconds is None or facts.submitted != facts.quorum(policy):
        return None
    return now + timedelta(seconds=policy.grace_seconds)


class Verdict(Enum):
    """What to do with a live round."""

    WAIT = auto()
    GO_ON = auto()
    """The next phase of a secure sum may begin."""
    AGGREGATE = auto()
    FAIL = auto()


def judge(facts: RoundFacts, policy: RoundPolicy, now: datetime) -> tuple[Verdict, str]:
    """What to do with a live round, and why."""
    if facts.phase is RoundPhase.AGGREGATING:
        if facts.lease_expires_at is not None and now < facts.lease_expires_at:
            return Verdict.WAIT, "being aggregated"
        return Verdict.AGGREGATE, "the coordinator that aggregated it stopped"
    needed = _needed(facts, policy)
    # Any so many members will do where they only confirm and unmask what is already sent.
    is_enough = facts.phase in _ENOUGH_WHEN_NEEDED and facts.submitted >= needed
    if facts.outstanding and now < facts.deadline_at and not is_enough:
        return Verdict.WAIT, f"waiting for {facts.outstanding} {_AWAITED[facts.phase]}"
    if facts.submitted >= needed:
        reason = "complete" if not facts.outstanding or is_enough else "deadline with quorum"
        goes_on = facts.is_protected and facts.phase is not RoundPhase.UNMASKING
        return (Verdict.GO_ON if goes_on else Verdict.AGGREGATE), reason
    what = _AWAITED[facts.phase]
    declined = f"; {facts.declined} clients declined" if facts.declined else ""
    reason = f"{facts.submitted} {what} at the end of the round, {needed} needed{declined}"
    return Verdict.FAIL, reason


_AWAITED = {
    RoundPhase.JOINING: "clients joined",
    RoundPhase.OPEN: "updates",
    RoundPhase.CONFIRMING: "confirmations",
    RoundPhase.UNMASKING: "clients' shares",
}
_ENOUGH_WHEN_NEEDED = (RoundPhase.CONFIRMING, RoundPhase.UNMASKING)


def _needed(facts: RoundFacts, policy: RoundPolicy) -> int:
    if facts.is_protected or facts.kind is TaskKind.TRAIN:
        return facts.quorum(policy)
    return 0


@dataclass(frozen=True)
class FederationFacts:
    """What decides a running federation's next step when it has no live round."""

    weights_version: int
    failed_rounds: int
    final_evaluation_done: bool
    ready_clients: int
    """Enrolled, and heard of since: a site that cannot train yet keeps no round waiting."""
    last_failure: str | None = None
    """Why the newest round failed, if it did."""
    needs_cards: bool = False
    """Only clients that have shown a card count as ready."""


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
    missing = policy.clients_needed - facts.ready_clients
    if missing > 0:
        cards = ", to show their cards" if facts.needs_cards else ""
        return WaitForClients(
            f"waiting for {missing} more clients to enrol{cards} and to ask for work"
        )
    return OpenRound(TaskKind.EVALUATE if trained else TaskKind.TRAIN)
