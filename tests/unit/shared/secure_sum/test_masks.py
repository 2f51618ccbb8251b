"""Streams of keys, and who can make which."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.secure_sum.masks import RingVector, agree, derive, pair_mask_key, self_mask_key


def test_the_stream_is_chacha20s() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, nonce and counter are zeros."""
    mask = RingVector.zeros(1, 4, 32).stream_of(bytes(32))
    stream = mask.counts.astype("<u8").tobytes() + mask.values.astype("<u4").tobytes()
    assert stream.hex() == "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1a"


def test_the_ring_takes_the_lowest_bits() -> None:
    wide, narrow = (RingVector.zeros(0, 9, bits).stream_of(bytes(32)) for bits in (32, 20))
    assert (narrow.values == wide.values & 0xFFFFF).all()


@pytest.mark.parametrize("bits", [8, 20, 32])
def test_what_is_added_can_be_taken_off(bits: int) -> None:
    vector = RingVector(np.array([3], np.uint64), np.arange(5, dtype=np.uint32), bits)
    mask = vector.stream_of(b"k" * 32)
    vector.add(mask)
    assert vector.values.tolist() != list(range(5))
    assert (vector.values < 2**bits).all()
    vector.subtract(mask)
    assert (vector.counts.tolist(), vector.values.tolist()) == ([3], list(range(5)))


def test_two_agree_on_a_key_that_depends_on_all_that_it_is_for() -> None:
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = [key.public_key().public_bytes_raw() for key in (one, other)]
    key = pair_mask_key(one, public[1], "terms", "joined", ("a", "b"))
    assert key == pair_mask_key(other, public[0], "terms", "joined", ("b", "a"))
    others = [
        pair_mask_key(one, public[1], "other", "joined", ("a", "b")),
        pair_mask_key(one, public[1], "terms", "other", ("a", "b")),
        pair_mask_key(one, public[1], "terms", "joined", ("a", "c")),
        pair_mask_key(one, public[0], "terms", "joined", ("a", "b")),
        self_mask_key(one.private_bytes_raw(), "terms", "joined"),
    ]
    assert key not in others
    assert len(set(others)) == len(others)


def test_a_key_that_agrees_on_zeros_with_everybody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        agree(X25519PrivateKey.generate(), bytes(32), "purpose")


def test_no_part_of_a_context_can_pass_for_two() -> None:
    with pytest.raises(ValueError, match="line feed"):
        derive(bytes(32), "share", "a\nb")
