"""Secrets come back from any shares that reach the threshold, and from no fewer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.secure_sum.shamir import PRIME, SHARE_BYTES, split, weights_at_zero


def rebuild(points: list[int], shares: list[int], prime: int = PRIME) -> int:
    weights = weights_at_zero(points, prime)
    return sum(w * s for w, s in zip(weights, shares, strict=True)) % prime


def test_the_published_example_has_these_shares() -> None:
    """https://en.wikipedia.org/wiki/Shamir%27s_secret_sharing, its example modulo 1613."""
    shares = split(1234, 3, range(1, 7), coefficients=[166, 94], prime=1613)
    assert shares == [1494, 329, 965, 176, 1188, 775]
    assert rebuild([2, 4, 5], [329, 176, 1188], 1613) == 1234


@given(
    secret=st.integers(0, 2**256 - 1),
    size=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=60)
def test_any_shares_that_reach_the_threshold_give_the_secret(
    secret: int, size: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, size))
    shares = split(secret, threshold, range(1, size + 1))
    assert all(0 <= share < PRIME and share.bit_length() <= 8 * SHARE_BYTES for share in shares)
    points = data.draw(st.permutations(range(1, size + 1)))[:threshold]
    assert rebuild(points, [shares[point - 1] for point in points]) == secret


def test_fewer_shares_than_the_threshold_fit_every_secret_alike() -> None:
    prime, seen = 31, (5, 17)
    for secret in range(prime):
        fitting = [
            (a, b)
            for a in range(prime)
            for b in range(prime)
            if tuple(split(secret, 3, [1, 2, 3], coefficients=[a, b], prime=prime)[:2]) == seen
        ]
        assert len(fitting) == 1


def test_the_field_is_prime_and_holds_every_secret() -> None:
    assert PRIME > 2**256
    generator = random.Random(1)
    for _ in range(20):  # Miller and Rabin
        base = generator.randrange(2, PRIME - 1)
        odd, power = PRIME - 1, 0
        while odd % 2 == 0:
            odd, power = odd // 2, power + 1
        x = pow(base, odd, PRIME)
        assert x in (1, PRIME - 1) or any(
            pow(base, odd << k, PRIME) == PRIME - 1 for k in range(1, power)
        )


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "coefficients", "message"),
    [
        (PRIME, 1, [1], None, "no element"),
        (-1, 1, [1], None, "no element"),
        (1, 3, [1, 2], None, "2 shares cannot have a threshold of 3"),
        (1, 0, [1], None, "threshold of 0"),
        (1, 1, [0, 1], None, "not 0"),
        (1, 1, [2, 2], None, "distinct"),
        (1, 1, [1, PRIME + 1], None, "distinct"),
        (1, 2, [1, 2], [], "takes 1 coefficients"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    secret: int, threshold: int, points: list[int], coefficients: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split(secret, threshold, points, coefficients=coefficients)


def test_points_that_are_not_distinct_have_no_weights() -> None:
    with pytest.raises(ValueError, match="distinct"):
        weights_at_zero([1, 1])
