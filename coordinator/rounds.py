"""The phases of federations, rounds and assignments, and every legal transition: one table each.

Pure: no clock, no database. The store turns a transition into one conditional write
(``UPDATE … WHERE state IN sources``), so nothing is read first and written later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import Generic, TypeVar

from shared.schema import (
    AssignmentState,
    FederationAction,
    FederationState,
    RoundPhase,
    TaskKind,
)
from shared.specification import RoundPolicy

State = TypeVar("State", bound=StrEnum)


@dataclass(frozen=True)
class Transition(Generic[State]):
    """From any of ``sources`` to ``target``."""

    sources: frozenset[State]
    target: State


class FederationEvent(StrEnum):
    """What happens to a federation without being asked for by an administrator."""

    COMPLETE = "complete"
    GIVE_UP = "give_up"
    """It cannot go on as it is, as when too many rounds failed in a row: it pauses, saying why."""
    BREAK = "break"
    """Its own data make it impossible to go on."""


class RoundEvent(StrEnum):
    """What happens to a round."""

    CLAIM = "claim"
    """A coordinator takes the aggregation, or takes it over from one whose lease ran out."""
    COMMIT = "commit"
    FAIL = "fail"


class AssignmentEvent(StrEnum):
    """What happens to one client's work."""

    LEASE = "lease"
    SUBMIT = "submit"
    EXPIRE = "expire"


def _transition(target: State, *sources: State) -> Transition[State]:
    return Transition(frozenset(sources), target)


FEDERATION_TRANSITIONS: Mapping[FederationAction | FederationEvent, Transition[FederationState]] = {
    FederationAction.START: _transition(FederationState.RUNNING, FederationState.DRAFT),
    FederationAction.PAUSE: _transition(FederationState.PAUSED, FederationState.RUNNING),
    FederationAction.RESUME: _transition(FederationState.RUNNING, FederationState.PAUSED),
    FederationAction.FINISH: _transition(
        FederationState.FINISHED,
        FederationState.DRAFT,
        FederationState.RUNNING,
        FederationState.PAUSED,
    ),
    FederationEvent.COMPLETE: _transition(FederationState.FINISHED, FederationState.RUNNING),
    FederationEvent.GIVE_UP: _transition(FederationState.PAUSED, FederationState.RUNNING),
    FederationEvent.BREAK: _transition(FederationState.FAILED, FederationState.RUNNING),
}

ROUND_TRANSITIONS: Mapping[RoundEvent, Transition[RoundPhase]] = {
    RoundEvent.CLAIM: _transition(RoundPhase.AGGREGATING, RoundPhase.OPEN, RoundPhase.AGGREGATING),
    RoundEvent.COMMIT: _transition(RoundPhase.COMMITTED, RoundPhase.AGGREGATING),
    RoundEvent.FAIL: _transition(RoundPhase.FAILED, RoundPhase.OPEN, RoundPhase.AGGREGATING),
}

LIVE_PHASES = ROUND_TRANSITIONS[RoundEvent.FAIL].sources
"""Those of a round that is not over; a federation has at most one such round."""

ASSIGNMENT_TRANSITIONS: Mapping[AssignmentEvent, Transition[AssignmentState]] = {
    AssignmentEvent.LEASE: _transition(
        AssignmentState.LEASED,
        AssignmentState.OFFERED,
        AssignmentState.LEASED,
        AssignmentState.EXPIRED,
    ),
    # An expired lease that nobody took again still delivers: work is not thrown away for a clock.
    AssignmentEvent.SUBMIT: _transition(
        AssignmentState.SUBMITTED, AssignmentState.LEASED, AssignmentState.EXPIRED
    ),
    AssignmentEvent.EXPIRE: _transition(AssignmentState.EXPIRED, AssignmentState.LEASED),
}


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


def deadline_from(start: datetime, policy: RoundPolicy) -> datetime:
    """The end of a round that opens at ``start``, or goes on then after a pause of any length."""
    return start + timedelta(seconds=policy.deadline_seconds)


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
        return Verdict.AGGREGATE, "the coordinator that aggregated it went away"
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
