"""Every move that the transition tables allow, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rules.phases import (
    ASSIGNMENT_TRANSITIONS,
    FEDERATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    AssignmentEvent,
    FederationEvent,
    RoundEvent,
    Transition,
    actions_in,
)
from shared.rest.schema import AssignmentState, FederationAction, FederationState, RoundPhase

Table = Mapping[Any, Transition[Any]]

FEDERATION_MOVES = {
    ("draft", "start", "running"),
    ("running", "pause", "paused"),
    ("paused", "resume", "running"),
    ("draft", "finish", "finished"),
    ("running", "finish", "finished"),
    ("paused", "finish", "finished"),
    ("running", "complete", "finished"),
    ("running", "give_up", "paused"),
    ("running", "break", "failed"),
}
ROUND_MOVES = {
    ("joining", "close_joining", "open"),
    ("open", "close_updates", "confirming"),
    ("confirming", "close_confirming", "unmasking"),
    ("open", "claim", "aggregating"),
    ("unmasking", "claim", "aggregating"),
    ("aggregating", "claim", "aggregating"),
    ("aggregating", "commit", "committed"),
    ("joining", "fail", "failed"),
    ("open", "fail", "failed"),
    ("confirming", "fail", "failed"),
    ("unmasking", "fail", "failed"),
    ("aggregating", "fail", "failed"),
}
ASSIGNMENT_MOVES = {
    ("offered", "lease", "leased"),
    ("leased", "lease", "leased"),
    ("expired", "lease", "leased"),
    ("leased", "submit", "submitted"),
    ("expired", "submit", "submitted"),
    ("leased", "decline", "dropped"),
    ("expired", "decline", "dropped"),
    ("leased", "expire", "expired"),
    ("offered", "drop", "dropped"),
    ("leased", "drop", "dropped"),
    ("expired", "drop", "dropped"),
    ("offered", "offer", "offered"),
    ("leased", "offer", "offered"),
    ("expired", "offer", "offered"),
    ("submitted", "offer", "offered"),
}

TABLES: dict[str, tuple[Table, type[StrEnum], list[StrEnum], set[tuple[str, str, str]]]] = {
    "federation": (
        FEDERATION_TRANSITIONS,
        FederationState,
        [*FederationAction, *FederationEvent],
        FEDERATION_MOVES,
    ),
    "round": (ROUND_TRANSITIONS, RoundPhase, [*RoundEvent], ROUND_MOVES),
    "assignment": (ASSIGNMENT_TRANSITIONS, AssignmentState, [*AssignmentEvent], ASSIGNMENT_MOVES),
}
FINAL = {
    "federation": {FederationState.FINISHED, FederationState.FAILED},
    "round": {RoundPhase.COMMITTED, RoundPhase.FAILED},
    "assignment": {AssignmentState.DROPPED},
}

every_table = pytest.mark.parametrize("name", TABLES)


def walk(table: Table, start: StrEnum, events: Iterable[StrEnum]) -> StrEnum:
    """Where a series of events leads when those that the state does not allow change nothing."""
    state = start
    for event in events:
        if state in table[event].sources:
            state = table[event].target
    return state


@every_table
def test_exactly_the_listed_moves_are_legal(name: str) -> None:
    table, _, _, moves = TABLES[name]
    found = {
        (source.value, event.value, transition.target.value)
        for event, transition in table.items()
        for source in transition.sources
    }
    assert found == moves


@every_table
def test_every_event_has_a_transition(name: str) -> None:
    table, _, events, _ = TABLES[name]
    assert set(table) == set(events)


@every_table
def test_the_final_states_are_those_that_nothing_leaves(name: str) -> None:
    table, states, _, _ = TABLES[name]
    left = {source for transition in table.values() for source in transition.sources}
    assert set(states) - left == FINAL[name]


@every_table
def test_every_state_is_reached_from_the_first(name: str) -> None:
    table, states, _, _ = TABLES[name]
    reached = {next(iter(states))}
    for _ in states:
        reached |= {t.target for t in table.values() if t.sources & reached}
    assert reached == set(states)


@every_table
@given(data=st.data())
@settings(max_examples=50)
def test_no_series_of_events_leaves_a_final_state(name: str, data: st.DataObject) -> None:
    table, states, events, _ = TABLES[name]
    series = data.draw(st.lists(st.sampled_from(events), max_size=20))
    more = data.draw(st.lists(st.sampled_from(events), max_size=20))
    end = walk(table, next(iter(states)), series)
    if end in FINAL[name]:
        assert walk(table, end, more) == end


def test_nothing_but_the_next_phase_of_a_secure_sum_asks_again_who_has_submitted() -> None:
    for event in set(AssignmentEvent) - {AssignmentEvent.OFFER}:
        assert AssignmentState.SUBMITTED not in ASSIGNMENT_TRANSITIONS[event].sources


def test_only_an_aggregated_round_commits() -> None:
    assert ROUND_TRANSITIONS[RoundEvent.COMMIT].sources == {RoundPhase.AGGREGATING}


def test_what_may_be_asked_of_a_federation_is_what_its_state_allows() -> None:
    assert [(state, actions_in(state)) for state in FederationState] == [
        (FederationState.DRAFT, [FederationAction.START, FederationAction.FINISH]),
        (FederationState.RUNNING, [FederationAction.PAUSE, FederationAction.FINISH]),
        (FederationState.PAUSED, [FederationAction.RESUME, FederationAction.FINISH]),
        (FederationState.FINISHED, []),
        (FederationState.FAILED, []),
    ]
