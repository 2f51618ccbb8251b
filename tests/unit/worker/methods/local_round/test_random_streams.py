"""Streams depend on seed, purpose and round alone, and on all of each."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from worker.methods.local_round.random_streams import (
    client_generator,
    drawn_normally,
    drawn_uniformly,
)


def first_draw(client_seed: int, purpose: str, round_number: int) -> float:
    return client_generator(client_seed, purpose, round_number).random()


def test_every_seed_purpose_and_round_has_a_stream_of_its_own() -> None:
    draws = {
        first_draw(client_seed, purpose, round_number)
        for client_seed in (1, 12, 1 + (1 << 32), 1 + (1 << 64), 1 + (1 << 127))
        for purpose in ("batches", "noise")
        for round_number in (0, 1, 21)
    }
    assert len(draws) == 30


def test_a_stream_can_be_drawn_again() -> None:
    assert first_draw((1 << 128) - 1, "batches", 3) == first_draw((1 << 128) - 1, "batches", 3)


def test_keys_that_differ_above_their_low_32_bits_alone_give_different_streams() -> None:
    seeds = (18206, 89150)
    first, second = (
        int.from_bytes(hashlib.sha256(f"{seed}:noise:1".encode()).digest()[:16], "little")
        for seed in seeds
    )
    assert first != second
    assert (first ^ second) % (1 << 33) == 0
    one, other = (client_generator(seed, "noise", 1).standard_normal(1000) for seed in seeds)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_every_part_of_the_key_counts() -> None:
    states = [
        client_generator(7, purpose).bit_generator.state["state"]["key"]
        for purpose in map(str, range(200))
    ]
    assert np.bitwise_or.reduce(states).tolist() == [(1 << 64) - 1] * 2
    assert np.bitwise_and.reduce(states).tolist() == [0, 0]


def test_what_is_drawn_is_the_same_everywhere() -> None:
    generator = client_generator(7, "privacy", 3)
    normal = [0.07259413599967957, 0.7405094504356384, 0.8956368565559387]
    assert drawn_normally((3,), generator).tolist() == pytest.approx(normal, rel=1e-6)
    assert generator.random(2).tolist() == [0.4587733464728051, 0.3364548554222574]
    assert generator.permutation(6).tolist() == [3, 4, 1, 5, 2, 0]
    assert generator.integers(1 << 62) == 198221426456686136


def test_uniform_draws_keep_their_bound_and_fill_it() -> None:
    drawn = drawn_uniformly((100, 100), 0.5, client_generator(7, "initial"))
    assert drawn.shape == (100, 100)
    assert 0.499 < float(drawn.abs().max()) <= 0.5
    assert float(drawn.std()) == pytest.approx(0.5 / 3**0.5, rel=0.02)
