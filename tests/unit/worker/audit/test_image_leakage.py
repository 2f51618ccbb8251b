"""Which attacks an audit runs on a round, and in how many."""

from __future__ import annotations

from dataclasses import replace

from shared.federation.privacy_plan import PrivacyPlan
from tests.support.audited import SMALL, small_subject
from worker.audit.attacked_round import Case
from worker.audit.image_leakage import UNROLLED, ImageAudit, is_unrolled, num_draws
from worker.audit.replay import Replay

UNROLLING = replace(SMALL, unrolled=10, images=6)


def test_steps_are_unrolled_where_a_round_of_one_client_has_few() -> None:
    subject = small_subject()
    replay = Replay(subject)
    audit = ImageAudit(subject, replay, UNROLLING)
    row, _ = audit.measure(Case(2, 3), 1)
    assert UNROLLED in row["attacks"]
    assert row["attacks"][UNROLLED]["blind"] == row["attacks"][row["strongest"]]["blind"]
    row, _ = audit.measure(Case(2, 3), 4)
    assert UNROLLED not in row["attacks"], "of a sum no client's steps are simulated"


def test_what_is_unrolled_is_as_much_as_the_effort_says() -> None:
    replay = Replay(small_subject())
    plans = {epochs: replay.plan(epochs=epochs) for epochs in (1, 5, 6)}
    assert is_unrolled(plans[5], 2, UNROLLING)
    assert not is_unrolled(plans[1], 2, UNROLLING), "one step has nothing to unroll"
    assert not is_unrolled(plans[6], 2, UNROLLING)
    assert not is_unrolled(plans[5], 2, SMALL)
    noisy = Replay(small_subject(privacy=PrivacyPlan(rounds=3, noise_multiplier=2.0)))
    assert not is_unrolled(noisy.plan(epochs=5), 2, UNROLLING), "its round is one step"


def test_rounds_are_as_many_as_the_images_take_and_four_where_steps_are_unrolled() -> None:
    plan = Replay(small_subject()).plan(epochs=5)
    for effort, count, cohort, expected in (
        (SMALL, 1, 1, 2),
        (UNROLLING, 1, 1, 4),
        (UNROLLING, 2, 1, 3),
        (UNROLLING, 1, 3, 2),
    ):
        assert num_draws(plan, Case(count, 5), count, cohort, effort) == expected
    assert num_draws(plan, Case(None, None), 100, 1, UNROLLING) == 1
