"""Shamir's secret sharing over a prime field (Shamir, CACM 1979). Pure.

A secret is the constant of a polynomial of degree threshold − 1 with random other coefficients; a
share is its value at a point. Fewer shares than the threshold say nothing of the secret. Python's
integers do not take constant time. Only a site's own secrets are split, where nobody else measures.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

PRIME = 2**256 + 297
"""The least prime above every secret of 32 bytes."""
SHARE_BYTES = 33


def split(
    secret: int,
    threshold: int,
    points: Sequence[int],
    *,
    coefficients: Sequence[int] | None = None,
    prime: int = PRIME,
) -> list[int]:
    """One share of a secret for each point.

    Args:
        secret: at least 0, less than ``prime``.
        threshold: shares that give the secret back.
        points: distinct, none of them 0 modulo ``prime``.
        coefficients: threshold − 1 of them, from the system's entropy unless given.
        prime: order of the field.

    Raises:
        ValueError: these cannot be shared out.
    """
    if not 0 <= secret < prime:
        raise ValueError("the secret is no element of the field")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"{len(points)} shares cannot have a threshold of {threshold}")
    if len({point % prime for point in points} - {0}) != len(points):
        raise ValueError("points must be distinct, and not 0")
    if coefficients is None:
        coefficients = [secrets.randbelow(prime) for _ in range(threshold - 1)]
    if len(coefficients) != threshold - 1:
        raise ValueError(f"a threshold of {threshold} takes {threshold - 1} coefficients")
    return [_evaluate((secret, *coefficients), point, prime) for point in points]


def weights_at_zero(points: Sequence[int], prime: int = PRIME) -> list[int]:
    """What shares at ``points`` are multiplied by, so that their sum is the secret (Lagrange).

    Raises:
        ValueError: points are not distinct, or 0.
    """
    if len({point % prime for point in points} - {0}) != len(points):
        raise ValueError("points must be distinct, and not 0")
    weights = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * other % prime
                denominator = denominator * (other - point) % prime
        weights.append(numerator * pow(denominator, -1, prime) % prime)
    return weights


def _evaluate(coefficients: Sequence[int], point: int, prime: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % prime
    return value
