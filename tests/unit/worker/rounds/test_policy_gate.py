"""Which rounds a site's policy lets a client train in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.federation.plans import TrainingPlan
from shared.federation.privacy_plan import PrivacyPlan
from tests.support.clock import ManualClock
from tests.support.fake_coordinator import FakeCoordinator
from tests.support.hosted_clients import NUM_TRAIN_EXAMPLES, hosted_client
from tests.support.specifications import tiny_specification
from worker.errors import PolicyRefused
from worker.rounds.held_task import HeldTask
from worker.rounds.policy_gate import PolicyGate
from worker.site_policy import SitePolicy

DAY_SECONDS = 86400


class Rounds:
    """One client's tasks, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self._coordinator = FakeCoordinator(tiny_specification())
        self._client = hosted_client(self._coordinator, folder, "alice")

    def gate(self, policy: SitePolicy, **hyperparameters: int) -> PolicyGate:
        training = self._coordinator.specification.training
        plan = training.model_dump() | {"hyperparameters": hyperparameters}
        return PolicyGate(policy, TrainingPlan.model_validate(plan), self.clock)

    def private_gate(self, policy: SitePolicy, num_rounds: int) -> PolicyGate:
        privacy = PrivacyPlan(rounds=num_rounds, noise_multiplier=1.0)
        training = self._coordinator.specification.training
        return PolicyGate(policy, training.model_copy(update={"privacy": privacy}), self.clock)

    def has_trained(self, round_number: int) -> None:
        self._client.state = replace(self._client.state, last_round=round_number)

    def task(self, round_number: int) -> HeldTask:
        return HeldTask(self._client, self._coordinator.add_task("alice", round_number))


@pytest.fixture
def rounds(tmp_path: Path) -> Rounds:
    return Rounds(tmp_path)


def test_a_default_policy_lets_every_round_pass(rounds: Rounds) -> None:
    gate = rounds.gate(SitePolicy())
    for number in range(1, 50):
        gate.admit(rounds.task(number))


def test_so_many_rounds_a_day_and_no_more(rounds: Rounds) -> None:
    gate = rounds.gate(SitePolicy(rounds_per_day=2))
    gate.admit(rounds.task(1))
    rounds.clock.advance(DAY_SECONDS / 2)
    gate.admit(rounds.task(2))
    with pytest.raises(PolicyRefused) as refused:
        gate.admit(rounds.task(3))
    assert refused.value.rule == "policy.rounds_per_day is 2"
    assert str(refused.value) == (
        "policy.rounds_per_day is 2, and client alice has trained 2 in the last 24 hours"
    )
    rounds.clock.advance(DAY_SECONDS / 2)
    gate.admit(rounds.task(4))


def test_so_many_rounds_in_all(rounds: Rounds) -> None:
    gate = rounds.gate(SitePolicy(rounds_in_all=2))
    for number in (1, 2):
        gate.admit(rounds.task(number))
        rounds.clock.advance(10 * DAY_SECONDS)
    with pytest.raises(PolicyRefused, match="rounds_in_all is 2, and client alice has trained 2"):
        gate.admit(rounds.task(3))


def test_a_round_that_is_counted_may_be_trained_again(rounds: Rounds) -> None:
    gate = rounds.gate(SitePolicy(rounds_per_day=1, rounds_in_all=1))
    gate.admit(rounds.task(1))
    gate.check(rounds.task(1))
    gate.admit(rounds.task(1))


def test_looking_counts_nothing(rounds: Rounds) -> None:
    gate = rounds.gate(SitePolicy(rounds_in_all=1))
    for number in (1, 2, 3):
        gate.check(rounds.task(number))
    gate.admit(rounds.task(3))


def test_a_round_of_too_few_steps_is_refused_and_the_number_stays_here(rounds: Rounds) -> None:
    batch_size = NUM_TRAIN_EXAMPLES - 1
    enough = rounds.gate(SitePolicy(minimum_steps=6), epochs=3, batch_size=batch_size)
    enough.admit(rounds.task(1))
    gate = rounds.gate(SitePolicy(minimum_steps=7), epochs=3, batch_size=batch_size)
    with pytest.raises(PolicyRefused) as refused:
        gate.admit(rounds.task(2))
    assert str(refused.value) == (
        "policy.minimum_steps is 7, and client alice makes 6 steps in a round"
    )
    assert refused.value.rule == "policy.minimum_steps is 7"


def test_no_round_is_trained_beyond_those_that_noise_is_planned_for(rounds: Rounds) -> None:
    gate = rounds.private_gate(SitePolicy(), 2)
    gate.admit(rounds.task(1))
    gate.admit(rounds.task(2))
    with pytest.raises(PolicyRefused, match="the privacy budget is of 2 rounds, and round 3"):
        gate.admit(rounds.task(3))


def test_no_second_update_is_made_of_a_round_that_has_noise(rounds: Rounds) -> None:
    gate = rounds.private_gate(SitePolicy(), 9)
    rounds.has_trained(4)
    for number in (3, 4):
        with pytest.raises(PolicyRefused, match="of one update a round, and client alice has made"):
            gate.admit(rounds.task(number))
    gate.admit(rounds.task(5))


def test_noise_stands_for_a_smallest_number_of_steps(rounds: Rounds) -> None:
    rounds.private_gate(SitePolicy(minimum_steps=100), 9).admit(rounds.task(1))


def test_so_many_cohorts_and_no_others(rounds: Rounds) -> None:
    gate = rounds.gate(SitePolicy(maximum_cohorts=2))
    for names in (["a", "b"], ["a", "c"], ["b", "a"], ["a", "c"]):
        gate.join_cohort(rounds.task(1), names)
    gate.admit(rounds.task(1))
    with pytest.raises(PolicyRefused) as refused:
        gate.join_cohort(rounds.task(2), ["a", "b", "c"])
    assert str(refused.value) == (
        "policy.maximum_cohorts is 2, and this cohort is another, and client alice has been in 2"
    )
    rounds.gate(SitePolicy()).join_cohort(rounds.task(2), ["a", "b", "c"])
