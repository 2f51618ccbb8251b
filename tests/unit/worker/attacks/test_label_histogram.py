"""That a whole round tells how many examples of each class a client has."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.support.observed_rounds import CPU, LINEAR, LINEAR_SHAPE, digits, observe, plan_of
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.label_histogram import (
    ClassMovement,
    chance_of,
    infer_histogram,
    total_variation_distance,
)
from worker.attacks.membership import MembershipTest


def test_the_histogram_is_nearer_than_a_guess() -> None:
    labels = digits(LINEAR_SHAPE).train.labels.numpy()
    plan = plan_of("hyperfl", LINEAR, LINEAR_SHAPE, epochs=5)
    generator = np.random.default_rng(5)

    def round_of(shares: np.ndarray, seed: int) -> tuple[Any, np.ndarray]:
        weights = shares[labels] / np.bincount(labels)[labels]
        places = generator.choice(len(labels), 100, p=weights / weights.sum())
        return observe(plan, [int(one) for one in places], seed=seed), np.bincount(
            labels[places], minlength=10
        ) / 100

    shadows = [round_of(generator.dirichlet(np.full(10, 0.5)), seed) for seed in range(20, 36)]
    dominant = np.array([0.3, 0.3, 0.3, *[0.1 / 7] * 7])
    seen, truth = round_of(dominant, 7)
    images, classes = seen.public.batch(torch.arange(len(seen.public)), CPU)
    change = read_extractor_change(seen.observation)
    test = MembershipTest(seen.network, change.before, images)
    movement = ClassMovement(seen.network, test, images, classes)
    found = infer_histogram(
        movement.statistics(change),
        [movement.statistics(read_extractor_change(one.observation)) for one, _ in shadows],
        [histogram for _, histogram in shadows],
    )
    assert np.isclose(found.sum(), 1.0)
    assert chance_of(found, truth) < 0.025
    assert chance_of(np.full(10, 0.1), truth) == 1.0
    blind = total_variation_distance(np.full(10, 0.1), truth)
    assert total_variation_distance(found, truth) < blind - 0.2
