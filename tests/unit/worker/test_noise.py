"""Normal variables from a key: their distribution, and that a key gives one answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm

from worker.noise import noise_key, rounded_normal, with_noise

KEY = noise_key(2022, "tiny", "a", "3")


def test_draws_are_normal_and_integers() -> None:
    drawn = rounded_normal(KEY, 5000.0, 200_000)
    assert drawn.dtype == np.int64
    assert kstest(drawn / 5000.0, norm.cdf).pvalue > 0.001
    assert abs(drawn).max() > 4 * 5000
    # Neighbours in the stream have nothing to do with each other.
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01


def test_small_deviations_are_rounded_to_the_nearest_integer() -> None:
    drawn = rounded_normal(KEY, 0.8, 200_000)
    expected = norm.cdf(1.5 / 0.8) - norm.cdf(0.5 / 0.8)
    assert (drawn == 1).mean() == pytest.approx(expected, abs=0.005)
    assert (drawn == -1).mean() == pytest.approx(expected, abs=0.005)


def test_a_key_gives_the_same_draws_and_every_occasion_has_its_own() -> None:
    first = rounded_normal(KEY, 100.0, 50)
    assert (rounded_normal(KEY, 100.0, 50) == first).all()
    others = [
        noise_key(2023, "tiny", "a", "3"),
        noise_key(2022, "tiny", "a", "4"),
        noise_key(2022, "tiny", "b", "3"),
    ]
    for key in others:
        assert (rounded_normal(key, 100.0, 50) != first).mean() > 0.5


def test_a_change_by_itself_has_all_its_noise() -> None:
    change = np.full(40_000, 0.25)
    noisy = with_noise(change, 2.0, 0.1, KEY)
    # A hundredth more than 2 · 0.1, for what rounding adds to the sensitivity.
    assert noisy.std() == pytest.approx(2.0 * 0.1 * 1.01, rel=0.02)
    assert noisy.mean() == pytest.approx(0.25, abs=0.005)
