"""A client's part comes out of sums over rounds where cohorts change, not where they stay."""

from __future__ import annotations

import numpy as np
import pytest

from worker.attacks.sum_differences import Float64, differences, least_squares, own_means

CLIENTS, ROUNDS, VALUES = 8, 60, 400


def sums_of(took_part: np.ndarray) -> tuple[Float64, Float64]:
    """Sums (T, P) of parts that are much the same in each round, and the mean parts (n, P)."""
    generator = np.random.default_rng(5)
    common, own = generator.normal(size=VALUES), generator.normal(size=(CLIENTS, VALUES))
    each = common + own + 0.5 * generator.normal(size=(ROUNDS, CLIENTS, VALUES))
    return np.einsum("tn,tnp->tp", took_part.astype(float), each), each.mean(0)


def cosines(found: Float64, parts: Float64) -> Float64:
    sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(parts, axis=1)
    result: Float64 = np.abs((found * parts).sum(1)) / sizes
    return result


def test_cohorts_that_are_drawn_anew_give_every_part_away() -> None:
    generator = np.random.default_rng(6)
    took_part = np.array([generator.permutation(CLIENTS) < CLIENTS // 2 for _ in range(ROUNDS)])
    sums, parts = sums_of(took_part)
    shown = cosines(own_means(sums, took_part), parts)
    assert (cosines(least_squares(sums, took_part), parts) > 0.95).all()
    # The difference has no part that all have in common.
    own = parts - parts.mean(0)
    assert (cosines(differences(sums, took_part), own) > 0.8).all()
    assert shown.max() < 0.9


@pytest.mark.parametrize("attack", [differences, least_squares])
def test_the_same_cohort_each_time_shows_its_sum_and_nothing_more(attack: object) -> None:
    took_part = np.ones((ROUNDS, CLIENTS), np.bool_)
    sums, parts = sums_of(took_part)
    assert callable(attack)
    found = attack(sums, took_part)
    np.testing.assert_allclose(
        cosines(found, parts), cosines(own_means(sums, took_part), parts), atol=1e-9
    )
