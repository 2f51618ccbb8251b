"""How far one round may move the weights. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_SLACK = 0.01
"""For what half precision adds to a published delta: at most 2⁻⁸ of its norm."""
_ROUNDING = 2.0**-24
"""Relative error of a float32 operation."""


@dataclass(frozen=True)
class MoveLimit:
    """The largest ‖W′ − W‖, a Frobenius norm over all shared tensors, that a round may commit.

    Attributes:
        cap: of a client's change, and so of what any rule makes of such changes.
        base_norm: ‖W‖.
        num_operations: float32 operations on an element between W and W′.
    """

    cap: float
    base_norm: float
    num_operations: int

    @property
    def allowed(self) -> float:
        """The cap, and what rounding may do to weights of this size."""
        rounding = 2.0 * self.num_operations * _ROUNDING * self.base_norm
        return self.cap * (1.0 + _SLACK) + rounding

    def scale_for(self, moved: float) -> float:
        """What a move of norm ``moved`` is multiplied by, so that it keeps the limit."""
        return 1.0 if moved <= self.allowed else self.cap / moved
