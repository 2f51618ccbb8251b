"""Masks: streams that only those who have the key can make, added in rings modulo 2^bits and 2^64.

The stream of a key is ChaCha20's keystream (RFC 8439), its nonce and its first counter zeros. The
first 8·c bytes are c little-endian numbers modulo 2^64 for the counts; 4 bytes for each value
follow, little-endian, of which the ring takes the lowest bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.secure_sum.fixed_point import Ring32, Ring64

KEY_BYTES = 32


@dataclass(eq=False)
class RingVector:
    """What one client adds to a sum, or a sum.

    Attributes:
        counts: (c,), modulo 2^64.
        values: (m,), modulo 2^bits.
        bits: 8 to 32.
    """

    counts: Ring64
    values: Ring32
    bits: int

    @classmethod
    def zeros(cls, num_counts: int, num_values: int, bits: int) -> RingVector:
        """The sum of nothing."""
        return cls(np.zeros(num_counts, np.uint64), np.zeros(num_values, np.uint32), bits)

    def add(self, other: RingVector) -> None:
        """Adds another vector, element by element."""
        self.counts += other.counts
        self.values += other.values
        self._reduce()

    def subtract(self, other: RingVector) -> None:
        """Takes off another vector, element by element."""
        self.counts -= other.counts
        self.values -= other.values
        self._reduce()

    def stream_of(self, key: bytes) -> RingVector:
        """The mask of this vector's size that ``key`` (32 bytes) stands for."""
        num_bytes = 8 * len(self.counts) + 4 * len(self.values)
        cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        stream = cipher.update(bytes(num_bytes))
        counts = np.frombuffer(stream, "<u8", len(self.counts)).astype(np.uint64)
        values = np.frombuffer(stream, "<u4", offset=8 * len(self.counts)).astype(np.uint32)
        mask = RingVector(counts, values, self.bits)
        mask._reduce()
        return mask

    def _reduce(self) -> None:
        # Sums modulo 2^32 are right modulo every smaller power of two.
        if self.bits < 32:
            self.values &= np.uint32((1 << self.bits) - 1)


def derive(secret: bytes, *context: str) -> bytes:
    """A key of 32 bytes for one purpose: HKDF-SHA256 (RFC 5869), no salt, context as information.

    The parts of ``context`` are joined by line feeds, which none of them may contain.
    """
    if any("\n" in part for part in context):
        raise ValueError("a part of a key's context has a line feed")
    information = "\n".join(("hyperfl", *context)).encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=information).derive(secret)


def agree(private: X25519PrivateKey, public: bytes, *context: str) -> bytes:
    """A key of 32 bytes that only two have: X25519 (RFC 7748), then :func:`derive`.

    Raises:
        ValueError: ``public`` is no key, or one that agrees on zeros with everybody.
    """
    return derive(private.exchange(X25519PublicKey.from_public_bytes(public)), *context)


def self_mask_key(seed: bytes, terms: str, joined: str) -> bytes:
    """The key of a client's own mask, of its seed of 32 bytes; see PROTOCOL.md."""
    return derive(seed, "self mask", terms, joined)


def pair_mask_key(
    private: X25519PrivateKey, public: bytes, terms: str, joined: str, pair: tuple[str, str]
) -> bytes:
    """The key of the mask that two clients share, one of whose mask keys is private here.

    ``pair`` are their names in any order. The first by name adds the mask, the other takes it off.

    Raises:
        ValueError: ``public`` is no key.
    """
    return agree(private, public, "pair mask", terms, joined, *sorted(pair))
