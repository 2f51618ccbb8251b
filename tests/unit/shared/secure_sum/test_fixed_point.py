"""Integers whose sum is exact whatever they are, and their packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.secure_sum.fixed_point import FixedPoint, pack, packed_bytes, unpack


@given(bits=st.integers(8, 32), num_clients=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_sum_is_that_of_what_each_client_sent(bits: int, num_clients: int, seed: int) -> None:
    point = FixedPoint.for_clients(bits, 0.5, num_clients)
    generator = np.random.default_rng(seed)
    total = np.zeros(7, np.uint32)
    expected = np.zeros(7)
    extremes = generator.choice([-10.0, -0.5, 0.5, 10.0, 0.0], (num_clients, 7))
    small = generator.normal(0, 0.1, (num_clients, 7))
    for values in np.where(generator.random((num_clients, 7)) < 0.5, extremes, small):
        units, received = point.encode(values, generator.random(7))
        assert (units < 2**bits).all()
        total = (total + units) & np.uint32((1 << bits) - 1)
        expected += np.rint(received / point.step)
    assert (np.rint(point.decode(total) / point.step) == expected).all()


def test_rounding_is_off_by_less_than_a_step_and_not_to_one_side() -> None:
    point = FixedPoint.for_clients(16, 1.0, 10)
    generator = np.random.default_rng(1)
    values = np.full(200_000, 0.4 * point.step)
    _, received = point.encode(values, generator.random(len(values)))
    assert np.abs(received - values).max() < point.step
    assert received.mean() / point.step == pytest.approx(0.4, abs=0.01)


def test_what_is_over_the_bound_is_cut_to_it() -> None:
    point = FixedPoint.for_clients(16, 1.0, 10)
    _, received = point.encode(np.array([5.0, -5.0]), np.array([0.999, 0.0]))
    assert received.tolist() == [1.0, -1.0]


def test_a_ring_too_small_for_its_clients_is_refused() -> None:
    with pytest.raises(ValueError, match="8 bits cannot hold a sum of 128 clients"):
        FixedPoint.for_clients(8, 1.0, 128)
    assert FixedPoint.for_clients(8, 1.0, 127).levels == 1


@given(
    bits=st.integers(8, 32),
    num_values=st.sampled_from([0, 1, 7, 8, 9, 65_535, 65_536, 65_537]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_packed_values_come_back(bits: int, num_values: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 2**bits, num_values, dtype=np.uint64).astype(np.uint32)
    packed = pack(values, bits)
    assert len(packed) == packed_bytes(num_values, bits)
    assert (unpack(packed, num_values, bits) == values).all()


def test_the_highest_bit_comes_first() -> None:
    assert pack(np.array([0xABCDE, 0x12345], np.uint32), 20).tobytes().hex() == "abcde12345"
    assert pack(np.array([1], np.uint32), 9).tobytes().hex() == "0080"


def test_other_sizes_and_filled_ends_are_refused() -> None:
    packed = pack(np.array([1], np.uint32), 9)
    with pytest.raises(ValueError, match="2 values of 9 bits have 3 bytes, not 2"):
        unpack(packed, 2, 9)
    packed[-1] |= 1
    with pytest.raises(ValueError, match="not zeros"):
        unpack(packed, 1, 9)
