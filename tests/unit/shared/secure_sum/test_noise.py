"""Noise in the ring of a sum: as much as is planned, and no more than fits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shared.secure_sum.noise import SumNoise

NOISE = SumNoise(multiplier=4.0, sensitivity=0.01, enough_of=7, num_values=10_000)


def test_the_noise_of_those_that_suffice_is_that_of_the_mechanism() -> None:
    point = NOISE.fixed_point(bits=28, bound=0.5, num_clients=10)
    together = NOISE.deviation(point) * math.sqrt(NOISE.enough_of)
    # Rounding moves each of the values by half a unit at most, in either data set.
    assert together == pytest.approx(4.0 * (0.01 / point.step + 100))


@pytest.mark.parametrize("bits", [22, 28, 32])
def test_all_values_and_eight_deviations_of_all_noise_fit_into_the_ring(bits: int) -> None:
    point = NOISE.fixed_point(bits, bound=0.5, num_clients=10)
    largest = 10 * point.levels + 8 * math.sqrt(10) * NOISE.deviation(point)
    assert 0.99 * 2 ** (bits - 1) < largest < 2 ** (bits - 1)


def test_values_come_back_with_the_noise_that_was_added() -> None:
    point = NOISE.fixed_point(bits=28, bound=0.5, num_clients=2)
    generator = np.random.default_rng(3)
    values = generator.uniform(-0.6, 0.6, (2, 1000))
    noise = np.rint(generator.normal(0, 1000, (2, 1000))).astype(np.int64)
    total = sum(point.encode_with_noise(v, n) for v, n in zip(values, noise, strict=True))
    found = point.decode(np.asarray(total, np.uint32) & np.uint32(2**28 - 1))
    expected = np.clip(values, -0.5, 0.5).sum(axis=0) + noise.sum(axis=0) * point.step
    assert np.abs(found - expected).max() <= point.step * 1.001


@pytest.mark.parametrize(
    ("bits", "noise", "message"),
    [
        (10, NOISE, "10 bits cannot hold a sum of 10 clients and its noise"),
        (24, SumNoise(0.2, 1e-9, 9, 100), "is too coarse to be rounded"),
    ],
)
def test_what_is_too_small_for_its_noise_is_refused(
    bits: int, noise: SumNoise, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        noise.fixed_point(bits, bound=0.5, num_clients=10)
