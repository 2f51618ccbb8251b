"""That a step tells its images from others."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.observed_rounds import CPU, LINEAR, LINEAR_SHAPE, ObservedRound, observe, plan_of
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.measures import roc
from worker.attacks.membership import MembershipTest, calibrated


def scores_of(seen: ObservedRound, of: ObservedRound) -> tuple[np.ndarray, np.ndarray]:
    """Of the second round's images and of strangers, under the first round's update."""
    public, _ = seen.public.batch(torch.arange(300), CPU)
    change = read_extractor_change(seen.observation)
    test = MembershipTest(seen.network, change.before, public[:150])
    images = of.pixel_range.normalised(of.pixels)
    return test.scores(change, images), test.scores(change, public[150:])


def test_images_of_one_step_are_told_from_others_and_other_images_are_not() -> None:
    plan = plan_of("hyperfl", LINEAR, LINEAR_SHAPE, epochs=1)
    seen, other = observe(plan, list(range(20))), observe(plan, list(range(100, 120)))
    area, rate = roc(*scores_of(seen, seen))
    assert area > 0.95
    assert rate > 0.5
    area, _ = roc(*scores_of(other, seen))
    assert area < 0.65


def test_shadow_scores_take_away_what_is_high_under_every_update() -> None:
    scores = np.array([3.0, 1.0])
    shadows = [np.array([2.0, 0.0]), np.array([4.0, 0.0])]
    assert list(calibrated(scores, shadows)) == [0.0, 1.0]
