"""That a sum of HyperFL updates comes apart, and that of b alone does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.arrays import Array
from shared.tensors.low_rank import FactoredDelta
from tests.support.observed_rounds import LINEAR, LINEAR_SHAPE, observe, plan_of
from worker.attacks.extractor_change import read_extractor_change
from worker.attacks.hypernetwork_inversion import invert
from worker.attacks.measures import psnr_matrix
from worker.attacks.observation import Observation
from worker.attacks.sum_unmixing import (
    best_cosines,
    changes_in_sum,
    columns_of,
    unmix_blind,
    unmix_known,
)

BIAS = "hypernetwork.output.bias"


def rounds_of(count: int, images: int, **settings: Any) -> list[Any]:
    plan = plan_of("hyperfl", LINEAR, LINEAR_SHAPE, **settings)
    places = (list(range(images * one, images * (one + 1))) for one in range(count))
    return [
        observe(plan, place, encoding="dense", seed=10 + one) for one, place in enumerate(places)
    ]


def mean_of(observations: list[Observation]) -> Observation:
    total: dict[str, Array] = {}
    for one in observations:
        for name, change in one.changes.items():
            assert not isinstance(change, FactoredDelta)
            total[name] = total.get(name, np.zeros_like(change)) + change / len(observations)
    return replace(observations[0], changes=total)


PAPER = {"hidden_size": 128, "embedding_size": 64}


def test_at_the_papers_width_the_sum_of_a_small_cohort_comes_apart_blind() -> None:
    observations = [one.observation for one in rounds_of(5, 20, epochs=2, **PAPER)]
    columns = columns_of(mean_of(observations))
    parts = [one.learned(BIAS).astype(np.float64) for one in observations]
    assert best_cosines(unmix_blind(columns, 5), parts).min() > 0.98
    assert best_cosines(columns[:, -1:].T, parts).max() < 0.6


@pytest.mark.parametrize("count", [3, 10])
def test_with_known_features_it_comes_apart_too(count: int) -> None:
    seen = rounds_of(count, 20, epochs=1)
    observations = [one.observation for one in seen]
    parts = [one.learned(BIAS).astype(np.float64) for one in observations]
    features = []
    for one in observations:
        weight, bias = columns_of(one)[:, :-1], columns_of(one)[:, -1]
        features.append(np.append(bias @ weight / (bias @ bias), 1.0))
    found = unmix_known(columns_of(mean_of(observations)), np.array(features))
    assert best_cosines(found, parts).min() > 0.9


def test_images_come_out_of_the_sum_of_one_image_each() -> None:
    seen = rounds_of(5, 1, epochs=1, **PAPER)
    mean = mean_of([one.observation for one in seen])
    changes = changes_in_sum(mean, 5)
    reached = []
    for one in seen:
        candidates = [
            invert(one.network, change, 1, one.pixel_range, one.public_pixels(50), iterations=30)
            for change in changes
        ]
        reached.append(max(float(psnr_matrix(each, one.pixels).max()) for each in candidates))
    assert min(reached) > 25.0
    (alone,) = invert(
        seen[0].network,
        read_extractor_change(mean),
        1,
        seen[0].pixel_range,
        seen[0].public_pixels(50),
        iterations=30,
    )
    assert float(psnr_matrix(alone[None], seen[0].pixels)) < 20.0


def test_a_sum_of_b_alone_has_one_column_and_does_not() -> None:
    seen = rounds_of(5, 20, epochs=1, shared_part="output-bias")
    total = mean_of([one.observation for one in seen])
    assert columns_of(total).shape[1] == 1
    assert changes_in_sum(total, 5) == []
