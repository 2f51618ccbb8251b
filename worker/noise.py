"""Noise of differential privacy: normal variables, rounded to integers.

They come from a key by ChaCha20 (RFC 8439), so that a client that is killed and trains again sends
the same bytes, and nobody without the key can take the noise away.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.secure_sum.fixed_point import Float64, Int64

_KEY_BYTES = 32
_AT_A_TIME = 1 << 20
"""Values whose bits are in memory at once."""
_UNITS_PER_SENSITIVITY = 100
"""Times √m: rounding makes one unit of privacy change a hundredth more."""


def noise_key(client_seed: int, *occasion: str) -> bytes:
    """The key of a client's noise on an occasion: the words that tell it from every other.

    The difference of two updates with the same noise would lay both open, so the words have to say
    who sends what to whom: federation, client, round, weights, cohort.
    """
    info = "\n".join(["hyperfl noise", *occasion]).encode()
    return HKDF(SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(str(client_seed).encode())


def rounded_normal(key: bytes, standard_deviation: float, count: int) -> Int64:
    """(count,) independent draws from N(0, standard_deviation²), each rounded to an integer.

    By inversion of 128 random bits, which reach 13 standard deviations.
    """
    from scipy.special import ndtri  # noqa: PLC0415 - slow to import, and most rounds have no noise

    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    drawn = np.empty(count, np.int64)
    for start in range(0, count, _AT_A_TIME):
        size = min(_AT_A_TIME, count - start)
        words = np.frombuffer(stream.update(bytes(16 * size)), "<u8").reshape(size, 2)
        # One bit is the sign; so half of the distribution is enough, where floats are fine.
        sign = 1.0 - 2.0 * (words[:, 0] & np.uint64(1)).astype(np.float64)
        high = (words[:, 0] >> np.uint64(1)).astype(np.float64)
        tail = (high + (words[:, 1].astype(np.float64) + 0.5) * 2.0**-64) * 2.0**-64
        drawn[start : start + size] = np.rint(sign * standard_deviation * ndtri(tail))
    return drawn


def with_noise(change: Float64, multiplier: float, sensitivity: float, key: bytes) -> Float64:
    """A client's change (m,) with all the noise that it needs by itself.

    Values and noise are integers of a public unit, as in a secure sum (shared.secure_sum.noise).

    Args:
        change: (m,), finite.
        multiplier: σ.
        sensitivity: largest norm of what one unit of privacy changes in ``change``.
        key: of the noise.
    """
    root = math.sqrt(max(1, len(change)))
    unit = sensitivity / (_UNITS_PER_SENSITIVITY * root)
    deviation = multiplier * (_UNITS_PER_SENSITIVITY + 1) * root
    noisy = np.rint(change / unit) + rounded_normal(key, deviation, len(change))
    return np.asarray(noisy * unit, np.float64)
