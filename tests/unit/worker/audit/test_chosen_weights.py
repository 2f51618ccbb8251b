"""Weights that a coordinator chose take images out of a sum, and not out of one with noise."""

from __future__ import annotations

import numpy as np
import pytest

from shared.federation.privacy_plan import PrivacyPlan
from shared.federation.sharing import OUTPUT_BIAS
from tests.support.audited import SMALL, small_subject
from worker.audit.attacked_round import Case
from worker.audit.chosen_weights import measure_chosen, refusal_of_weights, with_trap_weights
from worker.site_policy import SitePolicy


def test_a_secure_sum_is_no_help_in_one_step() -> None:
    """The control: where it must succeed, it does, and what chance does is told apart."""
    row, picture = measure_chosen(small_subject(protected=True), SMALL, Case(2, 1), 4)
    assert row["says"] == "recovered"
    assert row["found"] >= 4
    assert row["found"] / row["images_sought"] > 5 * row["strangers_found"] / row["strangers"]
    assert picture is not None
    assert row["policy"] is None


def test_weights_that_the_policy_refuses_are_shown_as_refused() -> None:
    policy = SitePolicy(maximum_accuracy_drop=0.25)
    assert refusal_of_weights(policy, 0.8, 0.3) == "maximum_accuracy_drop = 0.25"
    assert refusal_of_weights(policy, 0.8, 0.6) is None
    assert refusal_of_weights(SitePolicy(), 0.8, 0.3) is None


@pytest.mark.parametrize("protected", [False, True])
def test_noise_holds_whatever_the_weights_are(*, protected: bool) -> None:
    privacy = PrivacyPlan(rounds=3, noise_multiplier=20.0)
    subject = small_subject(protected=protected, privacy=privacy)
    row, _ = measure_chosen(subject, SMALL, Case(2, 1), 4 if protected else 1)
    assert row["says"] == "gains nothing"


def test_only_b_is_another_where_b_alone_is_shared() -> None:
    subject = small_subject(protected=True)
    chosen = with_trap_weights(subject, 40)
    assert chosen.weights.keys() == subject.weights.keys() == {OUTPUT_BIAS}
    assert not np.array_equal(chosen.weights[OUTPUT_BIAS], subject.weights[OUTPUT_BIAS])
    assert np.isfinite(chosen.weights[OUTPUT_BIAS]).all()
