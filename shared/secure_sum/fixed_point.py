"""Real numbers as integers whose sum over a cohort is exact, and their packing into bits. Pure.

A value v of at most ``bound`` becomes the integer ⌊v/step + u⌋, with u uniform in [0, 1): its mean
is v/step, so rounding has no bias (Gupta et al., ICML 2015). The step is such that the sum of all
clients' integers fits into ``bits``, whatever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ring32 = npt.NDArray[np.uint32]
Ring64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_PACKED_AT_A_TIME = 1 << 16
"""Values whose single bits are in memory at once; a multiple of 8: pieces end with bytes."""


@dataclass(frozen=True)
class FixedPoint:
    """How values are written in a sum.

    Attributes:
        bits: of the ring, 8 to 32: integers are modulo 2^bits.
        bound: largest magnitude of a value; what is larger is cut.
        levels: the largest integer of one client, which stands for the bound.
    """

    bits: int
    bound: float
    levels: int

    @classmethod
    def for_clients(cls, bits: int, bound: float, num_clients: int) -> FixedPoint:
        """With as many levels as the ring has room for, ``num_clients`` times.

        Raises:
            ValueError: the ring is too small for so many clients.
        """
        levels = ((1 << bits) - 1) // 2 // num_clients
        if levels < 1:
            raise ValueError(f"{bits} bits cannot hold a sum of {num_clients} clients")
        return cls(bits, bound, levels)

    @property
    def step(self) -> float:
        """What one unit stands for."""
        return self.bound / self.levels

    def encode(self, values: Float64, uniform: Float64) -> tuple[Ring32, Float64]:
        """Integers modulo 2^bits, and the values that they stand for.

        Args:
            values: (m,), finite.
            uniform: (m,), draws from [0, 1) that nobody else knows.
        """
        units = np.floor(np.clip(values, -self.bound, self.bound) / self.step + uniform)
        units = np.clip(units, -self.levels, self.levels).astype(np.int64)
        return self._wrapped(units), units * self.step

    def encode_with_noise(self, values: Float64, noise: Int64) -> Ring32:
        """Integers modulo 2^bits: the nearest to the values (m,), plus ``noise`` (m,)."""
        units = np.rint(np.clip(values, -self.bound, self.bound) / self.step).astype(np.int64)
        return self._wrapped(units + noise)

    def decode(self, total: Ring32) -> Float64:
        """The sum of the clients' values (m,), of the sum of their integers modulo 2^bits (m,)."""
        signed = total.astype(np.int64)
        signed[signed >= 1 << (self.bits - 1)] -= 1 << self.bits
        values: Float64 = signed.astype(np.float64) * self.step
        return values

    def _wrapped(self, units: Int64) -> Ring32:
        return (units & ((1 << self.bits) - 1)).astype(np.uint32)


def packed_bytes(num_values: int, bits: int) -> int:
    """Bytes of so many packed values."""
    return (num_values * bits + 7) // 8


def pack(values: Ring32, bits: int) -> npt.NDArray[np.uint8]:
    """``bits`` of each value (m,), the highest first, one after the other; zeros fill the end."""
    pieces = []
    for start in range(0, len(values), _PACKED_AT_A_TIME):
        piece = values[start : start + _PACKED_AT_A_TIME].astype(">u4")
        single = np.unpackbits(piece.view(np.uint8).reshape(-1, 4), axis=1)[:, 32 - bits :]
        pieces.append(np.packbits(single.reshape(-1)))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)


def unpack(packed: npt.NDArray[np.uint8], num_values: int, bits: int) -> Ring32:
    """The values (num_values,) that :func:`pack` made these bytes of.

    Raises:
        ValueError: there are more or fewer bytes, or the filling is not zeros.
    """
    if len(packed) != packed_bytes(num_values, bits):
        raise ValueError(
            f"{num_values} values of {bits} bits have {packed_bytes(num_values, bits)} bytes, "
            f"not {len(packed)}"
        )
    values = np.empty(num_values, np.uint32)
    bytes_at_a_time = packed_bytes(_PACKED_AT_A_TIME, bits)
    for index, start in enumerate(range(0, num_values, _PACKED_AT_A_TIME)):
        piece = packed[index * bytes_at_a_time : (index + 1) * bytes_at_a_time]
        count = min(_PACKED_AT_A_TIME, num_values - start)
        single = np.unpackbits(piece)
        if single[count * bits :].any():
            raise ValueError("the bits after the last value are not zeros")
        wide = np.zeros((count, 32), np.uint8)
        wide[:, 32 - bits :] = single[: count * bits].reshape(count, bits)
        values[start : start + count] = np.packbits(wide, axis=1).view(">u4").reshape(-1)
    return values
