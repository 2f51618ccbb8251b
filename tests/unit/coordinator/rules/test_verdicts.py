"""What becomes of a live round: every order of updates, deadline, claim and lost lease."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rules.verdicts import RoundFacts, Verdict, deadline_from, early_end, judge
from shared.federation.specification import RoundPolicy
from shared.rest.schema import RoundPhase, TaskKind
from tests.support.specifications import tiny_specification

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
POLICY = RoundPolicy(rounds=1, minimum_updates=2)
COHORT = 3


def facts(
    submitted: int = 0,
    outstanding: int | None = None,
    *,
    kind: TaskKind = TaskKind.TRAIN,
    phase: RoundPhase = RoundPhase.OPEN,
    deadline: timedelta = SECOND,
    lease: timedelta | None = None,
) -> RoundFacts:
    """A round whose deadline and lease end so long after now."""
    return RoundFacts(
        kind=kind,
        phase=phase,
        deadline_at=NOW + deadline,
        lease_expires_at=None if lease is None else NOW + lease,
        submitted=submitted,
        outstanding=COHORT - submitted if outstanding is None else outstanding,
    )


any_facts = st.builds(
    facts,
    st.integers(0, 4),
    st.integers(0, 4),
    kind=st.sampled_from(TaskKind),
    phase=st.sampled_from([RoundPhase.OPEN, RoundPhase.AGGREGATING]),
    deadline=st.integers(-2, 2).map(timedelta),
    lease=st.none() | st.integers(-2, 2).map(timedelta),
)


@pytest.mark.parametrize(
    ("round_", "verdict", "reason"),
    [
        (facts(0), Verdict.WAIT, "waiting for 3 updates"),
        (facts(2), Verdict.WAIT, "waiting for 1 updates"),
        (facts(3), Verdict.AGGREGATE, "complete"),
        (facts(3, deadline=-SECOND), Verdict.AGGREGATE, "complete"),
        (facts(2, deadline=-SECOND), Verdict.AGGREGATE, "deadline with quorum"),
        (facts(2, deadline=0 * SECOND), Verdict.AGGREGATE, "deadline with quorum"),
        (
            facts(1, deadline=-SECOND),
            Verdict.FAIL,
            "1 updates at the end of the round, 2 needed",
        ),
        (
            facts(0, deadline=0 * SECOND),
            Verdict.FAIL,
            "0 updates at the end of the round, 2 needed",
        ),
        # Everybody else was revoked: nobody is left to wait for.
        (facts(1, 0), Verdict.FAIL, "1 updates at the end of the round, 2 needed"),
        (facts(2, 0), Verdict.AGGREGATE, "complete"),
    ],
)
def test_an_open_training_round(round_: RoundFacts, verdict: Verdict, reason: str) -> None:
    assert judge(round_, POLICY, NOW) == (verdict, reason)


def test_a_round_that_fails_says_how_many_declined() -> None:
    round_ = replace(facts(1, 0), declined=2)
    reason = "1 updates at the end of the round, 2 needed; 2 clients declined"
    assert judge(round_, POLICY, NOW) == (Verdict.FAIL, reason)


@pytest.mark.parametrize(
    ("round_", "verdict"),
    [
        (facts(0, kind=TaskKind.EVALUATE), Verdict.WAIT),
        (facts(3, kind=TaskKind.EVALUATE), Verdict.AGGREGATE),
        (facts(0, 0, kind=TaskKind.EVALUATE), Verdict.AGGREGATE),
        (facts(0, kind=TaskKind.EVALUATE, deadline=-SECOND), Verdict.AGGREGATE),
    ],
)
def test_an_evaluation_needs_no_quorum(round_: RoundFacts, verdict: Verdict) -> None:
    assert judge(round_, POLICY, NOW)[0] is verdict


@pytest.mark.parametrize(
    ("lease", "verdict"),
    [
        (SECOND, Verdict.WAIT),
        (0 * SECOND, Verdict.AGGREGATE),
        (-SECOND, Verdict.AGGREGATE),
        (None, Verdict.AGGREGATE),
    ],
)
def test_an_aggregation_is_taken_over_when_its_lease_runs_out(
    lease: timedelta | None, verdict: Verdict
) -> None:
    round_ = facts(3, phase=RoundPhase.AGGREGATING, lease=lease)
    assert judge(round_, POLICY, NOW)[0] is verdict


FIRST, QUORUM, COMPLETE, DEADLINE = "first", "quorum", "complete", "deadline"


def _orders() -> list[tuple[str, ...]]:
    return [
        order
        for order in permutations((FIRST, QUORUM, COMPLETE, DEADLINE))
        if order.index(FIRST) < order.index(QUORUM) < order.index(COMPLETE)
    ]


@pytest.mark.parametrize("order", _orders())
def test_each_order_of_three_updates_and_the_deadline_ends_as_its_first_decision(
    order: tuple[str, ...],
) -> None:
    expected = {
        (DEADLINE, FIRST, QUORUM, COMPLETE): (DEADLINE, Verdict.FAIL),
        (FIRST, DEADLINE, QUORUM, COMPLETE): (DEADLINE, Verdict.FAIL),
        (FIRST, QUORUM, DEADLINE, COMPLETE): (DEADLINE, Verdict.AGGREGATE),
        (FIRST, QUORUM, COMPLETE, DEADLINE): (COMPLETE, Verdict.AGGREGATE),
    }
    submitted, now = 0, NOW
    for event in order:
        if event == DEADLINE:
            now += 2 * SECOND
        else:
            submitted += 1
        verdict, _ = judge(facts(submitted), POLICY, now)
        if verdict is not Verdict.WAIT:
            assert (event, verdict) == expected[order]
            return
    pytest.fail("the round was never decided")


@given(round_=any_facts)
@settings(max_examples=200)
def test_a_round_waits_only_for_somebody(round_: RoundFacts) -> None:
    verdict, reason = judge(round_, POLICY, NOW)
    leased = round_.lease_expires_at is not None and round_.lease_expires_at > NOW
    if round_.phase is RoundPhase.AGGREGATING:
        assert (verdict is Verdict.WAIT) == leased
    else:
        assert (verdict is Verdict.WAIT) == (round_.outstanding > 0 and round_.deadline_at > NOW)
    assert reason


@given(round_=any_facts)
@settings(max_examples=200)
def test_a_round_that_is_being_aggregated_is_never_failed_by_the_clock(round_: RoundFacts) -> None:
    aggregating = replace(round_, phase=RoundPhase.AGGREGATING)
    assert judge(aggregating, POLICY, NOW)[0] is not Verdict.FAIL


@given(round_=any_facts, seconds=st.integers(0, 1_000_000))
@settings(max_examples=200)
def test_time_alone_never_undoes_a_decision(round_: RoundFacts, seconds: int) -> None:
    verdict, _ = judge(round_, POLICY, NOW)
    later, _ = judge(round_, POLICY, NOW + seconds * SECOND)
    if verdict is not Verdict.WAIT:
        assert later is verdict


@given(round_=any_facts.filter(lambda round_: round_.outstanding > 0))
@settings(max_examples=200)
def test_one_more_update_never_makes_a_round_fail(round_: RoundFacts) -> None:
    more = replace(round_, submitted=round_.submitted + 1, outstanding=round_.outstanding - 1)
    before, _ = judge(round_, POLICY, NOW)
    after, _ = judge(more, POLICY, NOW)
    if before is Verdict.AGGREGATE:
        assert after is Verdict.AGGREGATE
    enough = round_.submitted + 1 >= POLICY.minimum_updates
    if enough or round_.kind is TaskKind.EVALUATE:
        assert after is not Verdict.FAIL


@given(paused=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1000)))
def test_a_round_goes_on_for_its_whole_time_after_a_pause(paused: timedelta) -> None:
    specification = tiny_specification(minimum_updates=2)
    opened = replace(facts(1), deadline_at=deadline_from(NOW, RoundPhase.OPEN, specification))
    resumed_at = NOW + paused
    deadline_at = deadline_from(resumed_at, RoundPhase.OPEN, specification)
    resumed = replace(opened, deadline_at=deadline_at)
    assert resumed.deadline_at >= opened.deadline_at
    whole = timedelta(seconds=POLICY.deadline_seconds)
    assert judge(resumed, POLICY, resumed_at + whole - SECOND)[0] is Verdict.WAIT
    assert judge(resumed, POLICY, resumed_at + whole)[0] is Verdict.FAIL


PATIENT = POLICY.model_copy(update={"deadline_seconds": 100.0, "grace_seconds": 10.0})


@pytest.mark.parametrize(
    ("submitted", "end"), [(0, None), (1, None), (2, NOW + 10 * SECOND), (3, None)]
)
def test_the_update_that_makes_the_quorum_ends_the_round_early(
    submitted: int, end: datetime | None
) -> None:
    assert early_end(facts(submitted), PATIENT, NOW) == end
    assert early_end(facts(submitted), POLICY, NOW) is None


def test_a_secure_sum_has_its_quorum_with_more_than_two_thirds_of_its_cohort() -> None:
    protected = replace(facts(2), is_protected=True, cohort_size=6)
    assert early_end(replace(protected, submitted=5), PATIENT, NOW) == NOW + 10 * SECOND
    for submitted in (2, 4, 6):
        assert early_end(replace(protected, submitted=submitted), PATIENT, NOW) is None


@pytest.mark.parametrize(
    ("submitted", "grace", "seconds"),
    [(1, 10.0, 100), (2, 10.0, 10), (3, 10.0, 10), (2, 200.0, 100), (2, None, 100), (2, 0.0, 0)],
)
def test_a_round_with_a_quorum_has_its_grace_time_again_after_a_pause(
    submitted: int, grace: float | None, seconds: int
) -> None:
    policy = PATIENT.model_copy(update={"grace_seconds": grace})
    specification = tiny_specification().model_copy(update={"round_policy": policy})
    deadline_at = deadline_from(NOW, RoundPhase.OPEN, specification, facts(submitted))
    assert deadline_at == NOW + seconds * SECOND
