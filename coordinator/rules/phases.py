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
    TaskKind,
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

    CLOSE_JOINING = "close_joining"
    """Enough clients of a secure sum's cohort have joined; they may send masked updates."""
    CLOSE_UPDATES = "close_updates"
    """Enough masked updates are recorded: the survivors are known, and are asked to confirm."""
    CLOSE_CONFIRMING = "close_confirming"
    """Enough survivors have confirmed each other; they are asked for shares."""
    CLAIM = "claim"
    """A coordinator takes the aggregation, or takes it over from one whose lease ran out."""
    COMMIT = "commit"
    FAIL = "fail"


class AssignmentEvent(StrEnum):
    """What happens to one client's work."""

    LEASE = "lease"
    SUBMIT = "submit"
    DECLINE = "decline"
    """The client says that it takes no part."""
    EXPIRE = "expire"
    DROP = "drop"
    """The next phase begins without this client."""
    OFFER = "offer"
    """The next phase asks this client again."""


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
    RoundEvent.CLOSE_JOINING: _transition(RoundPhase.OPEN, RoundPhase.JOINING),
    RoundEvent.CLOSE_UPDATES: _transition(RoundPhase.CONFIRMING, RoundPhase.OPEN),
    RoundEvent.CLOSE_CONFIRMING: _transition(RoundPhase.UNMASKING, RoundPhase.CONFIRMING),
    RoundEvent.CLAIM: _transition(
        RoundPhase.AGGREGATING, RoundPhase.OPEN, RoundPhase.UNMASKING, RoundPhase.AGGREGATING
    ),
    RoundEvent.COMMIT: _transition(RoundPhase.COMMITTED, RoundPhase.AGGREGATING),
    RoundEvent.FAIL: _transition(
        RoundPhase.FAILED,
        RoundPhase.JOINING,
        RoundPhase.OPEN,
        RoundPhase.CONFIRMING,
        RoundPhase.UNMASKING,
        RoundPhase.AGGREGATING,
    ),
}

END_OF_PHASE: Mapping[RoundPhase, RoundEvent] = {
    RoundPhase.JOINING: RoundEvent.CLOSE_JOINING,
    RoundPhase.OPEN: RoundEvent.CLOSE_UPDATES,
    RoundPhase.CONFIRMING: RoundEvent.CLOSE_CONFIRMING,
}
"""Of a round with a secure sum; CLAIM ends its last phase, as it ends OPEN of any other."""

EXCHANGE_TASKS: Mapping[RoundPhase, TaskKind] = {
    RoundPhase.JOINING: TaskKind.JOIN,
    RoundPhase.CONFIRMING: TaskKind.CONFIRM,
    RoundPhase.UNMASKING: TaskKind.UNMASK,
}
"""What a phase asks of clients that is not the round's own kind of work."""

WAITING_PHASES = frozenset({RoundPhase.OPEN, *EXCHANGE_TASKS})
"""Those that wait for clients."""

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
    AssignmentEvent.DECLINE: _transition(
        AssignmentState.DROPPED, AssignmentState.LEASED, AssignmentState.EXPIRED
    ),
    AssignmentEvent.EXPIRE: _transition(AssignmentState.EXPIRED, AssignmentState.LEASED),
    AssignmentEvent.DROP: _transition(
        AssignmentState.DROPPED,
        AssignmentState.OFFERED,
        AssignmentState.LEASED,
        AssignmentState.EXPIRED,
    ),
    AssignmentEvent.OFFER: _transition(
        AssignmentState.OFFERED,
        AssignmentState.OFFERED,
        AssignmentState.LEASED,
        AssignmentState.EXPIRED,
        AssignmentState.SUBMITTED,
    ),
}


def actions_in(state: FederationState) -> list[FederationAction]:
    """What an administrator may ask of a federation in this state."""
    return [act for act in FederationAction if state in FEDERATION_TRANSITIONS[act].sources]


def is_over(state: str) -> bool:
    """Whether a federation in this state has ended for good."""
    return state in (FederationState.FINISHED, FederationState.FAILED)
