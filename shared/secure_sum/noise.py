"""How much noise each member adds to a sum, in the sum's own units. Pure.

Members round their values to integers and add integers to them: a normal variable, rounded. The sum
of h such variables is that of h normal ones and h − 1 uniform ones on ±½, rounded, but for a
difference in total variation of less than e^(−s²) of each value, s their standard deviation (docs/
protected-mode.md has the proof). So whoever sees the sum sees a function of the Gaussian mechanism,
and every accountant of that mechanism holds.

Rounding moves a value by at most ½, so integers differ by one more than the values they stand for:
of m values by at most S/step + √m in Euclidean norm, where the values differ by S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.secure_sum.fixed_point import FixedPoint

_HEADROOM_DEVIATIONS = 8
"""Of the sum's noise, over which the ring would wrap around: once in 10^15 values."""
SMALLEST_DEVIATION = 30.0
"""In units, of one member's noise: e^(−900) is no number any more."""


@dataclass(frozen=True)
class SumNoise:
    """The noise of a sum of m values.

    Attributes:
        multiplier: σ, the standard deviation over what one unit of privacy changes.
        sensitivity: S, the largest norm of what it changes.
        enough_of: h, members whose noise together suffices.
        num_values: m.
    """

    multiplier: float
    sensitivity: float
    enough_of: int
    num_values: int

    def fixed_point(self, bits: int, bound: float, num_clients: int) -> FixedPoint:
        """How values of at most ``bound`` are written, with room for the noise of all members.

        Raises:
            ValueError: the ring is too small, or one member's noise would be too coarse.
        """
        room = ((1 << bits) - 1) // 2
        # The standard deviation of all members' noise is this often S/step + √m.
        spread = _HEADROOM_DEVIATIONS * self.multiplier * math.sqrt(num_clients / self.enough_of)
        levels = (room - spread * math.sqrt(self.num_values)) / (
            num_clients + spread * self.sensitivity / bound
        )
        if levels < 1:
            raise ValueError(
                f"{bits} bits cannot hold a sum of {num_clients} clients and its noise: "
                "give protection.bits more"
            )
        fixed_point = FixedPoint(bits, bound, int(levels))
        if self.deviation(fixed_point) < SMALLEST_DEVIATION:
            raise ValueError(
                f"noise of {self.deviation(fixed_point):.3g} units is too coarse to be rounded: "
                "give protection.bits more, or protection.bound less"
            )
        return fixed_point

    def deviation(self, fixed_point: FixedPoint) -> float:
        """Standard deviation of one member's noise, in units of ``fixed_point``."""
        units = self.sensitivity / fixed_point.step + math.sqrt(self.num_values)
        return self.multiplier * units / math.sqrt(self.enough_of)
