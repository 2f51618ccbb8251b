"""What a federation with differential privacy may say, and what it may not have besides."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation.noise_rules import check_agreed_noise
from shared.federation.plans import TrainingPlan
from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.privacy_rules import check_privacy
from shared.privacy_accountant import PrivacyBudgetError
from tests.support.private_sums import private_specification


def test_an_example_counts_alike_whoever_has_it() -> None:
    plan = PrivacyPlan(rounds=10, noise_multiplier=1.0, clip_norm=0.5, sample_rate=0.25)
    assert plan.sensitivity(100, 1) == 4.0 * 0.5 / (0.25 * 100)
    assert (
        PrivacyPlan(rounds=10, noise_multiplier=1.0, clip_norm=0.5, unit="client").sensitivity(
            100, 7
        )
        == 0.5
    )


def test_the_last_steps_shrink_to_a_tenth_and_noise_with_them() -> None:
    plan = PrivacyPlan(rounds=41, noise_multiplier=1.0)
    rates = [plan.learning_rate_in(number) for number in (1, 31, 36, 41, 42)]
    assert rates == pytest.approx([4.0, 4.0, 2.2, 0.4, 0.4])
    assert plan.sensitivity(50, 41) == pytest.approx(0.1 * plan.sensitivity(50, 1))
    assert PrivacyPlan(rounds=1, noise_multiplier=1.0).learning_rate_in(1) == 4.0


def test_noise_is_shared_by_those_who_stay_and_do_not_help_the_coordinator() -> None:
    plan = PrivacyPlan(rounds=2, noise_multiplier=1.0)
    assert plan.noise_share(cohort_size=20, minimum_updates=3) == 14 - 6
    assert plan.noise_share(cohort_size=20, minimum_updates=18) == 18 - 6
    assert plan.noise_share(cohort_size=3, minimum_updates=3) == 3


def test_a_cohort_that_is_smaller_than_was_planned_shares_its_noise_among_itself() -> None:
    plan = PrivacyPlan(rounds=2, noise_multiplier=1.0, noise_clients=14)
    assert plan.noise_share(20, 3) == 14
    assert plan.noise_share(6, 3) == 5


def test_epsilon_grows_with_the_rounds_up_to_what_was_planned() -> None:
    plan = PrivacyPlan(rounds=60, noise_multiplier=4.66)
    spent = [plan.epsilon_after(number) for number in (1, 30, 60)]
    assert spent == sorted(spent)
    assert 7.9 < spent[-1] <= 8.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"cohort_size": None}}, "give round_policy.cohort_size"),
        ({"policy": {"max_update_norm": 1.0}}, "max_update_norm would shorten the noise too"),
        ({"policy": {"rounds": 3}}, "training.privacy.rounds is 2, fewer than round_policy.rounds"),
        ({"privacy": {"noise_clients": 5}}, "noise_clients is 5, and a sum may be of 4 clients"),
        ({"privacy": {"noise_clients": 2}, "protection": {}}, "noise_clients is for secure sums"),
        ({"privacy": {"unit": "client", "sample_rate": 0.5}}, "sample_rate is of examples"),
        ({"privacy": {"noise_multiplier": None}}, "noise_multiplier"),
        ({"privacy": {"epsilon": 0.0}}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        private_specification(**changes)


@pytest.mark.parametrize(
    ("method", "hyperparameters", "message"),
    [
        ("dp-fedavg", {"rounds": 2}, "has noise of its own"),
        ("local", {}, "sends nothing"),
        ("fedavg", {}, "does not bound what one example changes"),
        ("a.b:c", {}, "does not bound what one example changes"),
        ("hyperfl", {}, "shared_part = output-bias"),
        ("hyperfl", {"training_head": "public"}, "with a public head of its own"),
    ],
)
def test_methods_without_a_private_step_are_refused(
    method: str, hyperparameters: dict[str, Any], message: str
) -> None:
    training = TrainingPlan(
        method=method,
        model="cnn-mnist",
        image_shape=(1, 28, 28),
        num_classes=3,
        hyperparameters=hyperparameters,
    )
    with pytest.raises(ValueError, match=message):
        check_privacy(
            PrivacyPlan(rounds=2, noise_multiplier=1.0),
            training,
            is_summed=False,
            cohort_size=None,
            minimum_updates=1,
            max_update_norm=None,
        )


def test_privacy_of_clients_is_for_every_method_that_shares() -> None:
    found = private_specification({"unit": "client"}, protection={"allow_separable": True})
    assert found.training.privacy is not None
    assert found.training.planned_rounds == 2


def test_agreed_noise_is_held_against_its_budget() -> None:
    training = private_specification().training
    check_agreed_noise(training)
    low = training.model_dump() | {"privacy": training.privacy.model_dump() | {"epsilon": 1.0}}  # type: ignore[union-attr]
    with pytest.raises(PrivacyBudgetError, match="epsilon 1 at delta 1e-05 in 2 steps"):
        check_agreed_noise(TrainingPlan.model_validate(low))


def test_agreed_noise_of_a_private_method_is_held_against_its_budget_too() -> None:
    agreed = {"rounds": 2, "epochs": 1, "sample_rate": 0.5, "noise_multiplier": 9.0}
    plan = {
        "method": "dp-fedavg",
        "model": "cnn-mnist",
        "image_shape": [1, 28, 28],
        "num_classes": 3,
    }
    check_agreed_noise(TrainingPlan.model_validate(plan | {"hyperparameters": agreed}))
    little = agreed | {"noise_multiplier": 0.4}
    with pytest.raises(PrivacyBudgetError, match=r"but 0\.4 is agreed"):
        check_agreed_noise(TrainingPlan.model_validate(plan | {"hyperparameters": little}))
