"""What became of one client's work in one round. Pure."""

from __future__ import annotations

from enum import StrEnum

from shared.rest.schema import AssignmentState


class Outcome(StrEnum):
    """How it is called where a round's clients are listed."""

    RECORDED = "recorded"
    WORKING = "working"
    """It has a lease, and the round waits for it."""
    AWAITED = "awaited"
    """The round waits for it, and it has not asked for its work."""
    LATE = "late"
    """It had a lease, and no update was recorded before that or the round ended."""
    DECLINED = "declined"
    SILENT = "silent"
    """It has not asked for its work, and the round went on without it."""


def outcome_of(state: str, *, has_update: bool, has_declined: bool, is_round_live: bool) -> Outcome:
    """The outcome of an assignment in ``state``."""
    if has_declined:
        return Outcome.DECLINED
    if has_update or (is_round_live and state == AssignmentState.SUBMITTED):
        return Outcome.RECORDED
    if state == AssignmentState.EXPIRED:
        return Outcome.LATE
    if state == AssignmentState.LEASED:
        return Outcome.WORKING if is_round_live else Outcome.LATE
    if state == AssignmentState.OFFERED and is_round_live:
        return Outcome.AWAITED
    return Outcome.SILENT
