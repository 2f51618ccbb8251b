"""What became of one client's work in one round."""

from __future__ import annotations

import pytest

from coordinator.rules.outcomes import Outcome, outcome_of
from shared.rest.schema import AssignmentState as State


@pytest.mark.parametrize(
    ("state", "is_live", "is_over"),
    [
        (State.OFFERED, Outcome.AWAITED, Outcome.SILENT),
        (State.LEASED, Outcome.WORKING, Outcome.LATE),
        (State.EXPIRED, Outcome.LATE, Outcome.LATE),
        (State.DROPPED, Outcome.SILENT, Outcome.SILENT),
    ],
)
def test_without_an_update(state: State, is_live: Outcome, is_over: Outcome) -> None:
    plain = {"has_update": False, "has_declined": False}
    assert outcome_of(state, is_round_live=True, **plain) is is_live
    assert outcome_of(state, is_round_live=False, **plain) is is_over


@pytest.mark.parametrize("is_live", [True, False])
def test_with_an_update_or_a_reason(is_live: bool) -> None:
    for state in State:
        recorded = outcome_of(state, has_update=True, has_declined=False, is_round_live=is_live)
        assert recorded is Outcome.RECORDED
    assert (
        outcome_of(State.DROPPED, has_update=False, has_declined=True, is_round_live=is_live)
        is Outcome.DECLINED
    )


def test_a_secure_sums_message_counts_while_its_phase_lasts() -> None:
    message = {"has_update": False, "has_declined": False}
    assert outcome_of(State.SUBMITTED, is_round_live=True, **message) is Outcome.RECORDED
    assert outcome_of(State.SUBMITTED, is_round_live=False, **message) is Outcome.SILENT
