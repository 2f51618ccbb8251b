"""The phases of federations, rounds and assignments, and every legal transition: one table each.

Pure: no clock, no database. The store turns a transition into one conditional write
(``UPDATE … WHERE state IN sources``), so nothing is read first and written later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from shared.rest.schema import (
    AssignmentState,
    FederationAction,
    FederationState,
    RoundPhase,
)

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


def is_over(state: str) -> bool:
    """Whether a federation in this state has ended for good."""
    return state in (FederationState.FINISHED, FederationState.FAILED)
