"""What a running federation without a live round does next."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from coordinator.rules.verdicts import (
    Complete,
    FederationFacts,
    GiveUp,
    OpenRound,
    Step,
    WaitForClients,
    next_step,
)
from shared.federation.specification import RoundPolicy
from shared.rest.schema import TaskKind


def policy(**changed: object) -> RoundPolicy:
    given_policy: dict[str, object] = {"rounds": 3, "max_failed_rounds": 1, "minimum_updates": 2}
    return RoundPolicy.model_validate(given_policy | changed)


def facts(
    version: int = 0, *, failed: int = 0, evaluated: bool = False, enrolled: int = 2
) -> FederationFacts:
    return FederationFacts(
        weights_version=version,
        failed_rounds=failed,
        final_evaluation_done=evaluated,
        ready_clients=enrolled,
    )


TRAIN, EVALUATE = OpenRound(TaskKind.TRAIN), OpenRound(TaskKind.EVALUATE)


@pytest.mark.parametrize(
    ("federation", "expected"),
    [
        (facts(0), TRAIN),
        (facts(2), TRAIN),
        (facts(3), EVALUATE),
        (facts(3, evaluated=True), Complete()),
        (facts(0, failed=1), TRAIN),
        (facts(0, failed=2), GiveUp("2 rounds failed in a row")),
        (facts(3, failed=2), GiveUp("2 rounds failed in a row")),
        (facts(3, failed=2, evaluated=True), Complete()),
        (
            facts(0, enrolled=1),
            WaitForClients("waiting for 1 more clients to enrol and to ask for work"),
        ),
        (
            facts(0, enrolled=0),
            WaitForClients("waiting for 2 more clients to enrol and to ask for work"),
        ),
        (
            facts(3, enrolled=0),
            WaitForClients("waiting for 2 more clients to enrol and to ask for work"),
        ),
        (facts(0, failed=2, enrolled=0), GiveUp("2 rounds failed in a row")),
        (facts(0, enrolled=100), TRAIN),
    ],
)
def test_every_case_of_a_policy_with_a_final_evaluation(
    federation: FederationFacts, expected: Step
) -> None:
    assert next_step(federation, policy()) == expected


def test_without_a_final_evaluation_the_last_commit_completes() -> None:
    assert next_step(facts(3), policy(evaluate_final=False)) == Complete()
    assert next_step(facts(2), policy(evaluate_final=False)) == TRAIN


def test_a_cohort_of_fixed_size_waits_until_it_can_be_drawn() -> None:
    wanted = policy(cohort_size=5)
    assert next_step(facts(enrolled=3), wanted) == WaitForClients(
        "waiting for 2 more clients to enrol and to ask for work"
    )
    assert next_step(facts(enrolled=5), wanted) == TRAIN


def test_no_failed_round_is_forgiven_when_none_may_fail() -> None:
    strict = policy(max_failed_rounds=0)
    assert next_step(facts(failed=0), strict) == TRAIN
    assert next_step(facts(failed=1), strict) == GiveUp("1 rounds failed in a row")


def test_giving_up_names_the_last_failure() -> None:
    failed = dataclasses.replace(facts(failed=2), last_failure="0 updates")
    assert next_step(failed, policy()) == GiveUp("2 rounds failed in a row; the last: 0 updates")


@st.composite
def policies(draw: st.DrawFn) -> RoundPolicy:
    minimum = draw(st.integers(1, 8))
    cohort: dict[str, object] = draw(
        st.one_of(
            st.just({}),
            st.fixed_dictionaries({"cohort_size": st.integers(minimum, 12)}),
            st.fixed_dictionaries({"cohort_fraction": st.sampled_from([0.05, 0.1, 0.5, 0.99])}),
        )
    )
    return RoundPolicy.model_validate(
        {
            "rounds": draw(st.integers(1, 4)),
            "minimum_updates": minimum,
            "max_failed_rounds": draw(st.integers(0, 2)),
            "evaluate_final": draw(st.booleans()),
        }
        | cohort
    )


any_federation = st.builds(
    facts,
    st.integers(0, 4),
    failed=st.integers(0, 3),
    evaluated=st.booleans(),
    enrolled=st.integers(0, 20),
)


@given(federation=any_federation, chosen=policies())
@settings(max_examples=200)
def test_training_never_goes_beyond_the_planned_rounds(
    federation: FederationFacts, chosen: RoundPolicy
) -> None:
    step = next_step(federation, chosen)
    if federation.weights_version >= chosen.rounds:
        assert step != TRAIN
    else:
        assert not isinstance(step, Complete)
        assert step != EVALUATE


@given(federation=any_federation, chosen=policies())
@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_training_round_that_opens_can_reach_its_quorum(
    federation: FederationFacts, chosen: RoundPolicy
) -> None:
    assume(next_step(federation, chosen) == TRAIN)
    cohort = chosen.size_of_cohort(federation.ready_clients)
    assert chosen.minimum_updates <= cohort <= federation.ready_clients
