"""How a round's updates become one change: the weighted mean, or a rule that outvotes a few liars.

PROTOCOL.md, section "Aggregation", is normative; docs/decisions/0008-robust-aggregation.md says
which rule for what.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

AggregationRule = Literal["mean", "median", "trimmed-mean", "multi-krum"]
_MEDIAN_MINIMUM = 3
"""Of two updates the median is the mean: one client moves it as far as it likes."""


class AggregationPlan(BaseModel):
    """The rule of aggregation. All but ``mean`` count every client alike, whatever it claims."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: AggregationRule = "mean"
    trim_fraction: float | None = Field(default=None, gt=0.0, lt=0.5)
    """``trimmed-mean``: of every coordinate's values, the share left out at each end."""
    hostile_clients: int | None = Field(default=None, ge=1, le=1_000_000)
    """``multi-krum``: f, the most hostile clients that a round is assumed to have."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        for setting, value, rule in (
            ("trim_fraction", self.trim_fraction, "trimmed-mean"),
            ("hostile_clients", self.hostile_clients, "multi-krum"),
        ):
            if (value is not None) != (self.rule == rule):
                verb = "needs" if value is None else "does not take"
                raise ValueError(f"aggregation {self.rule} {verb} {setting}")
        return self

    @property
    def fewest_updates(self) -> int:
        """Updates below which the rule protects from nobody, or is not defined."""
        if self.trim_fraction is not None:
            return math.ceil(1 / Fraction(str(self.trim_fraction)))
        if self.hostile_clients is not None:
            return 2 * self.hostile_clients + 3
        return _MEDIAN_MINIMUM if self.rule == "median" else 1

    def check_policy(self, minimum_updates: int, max_examples_weight: int | None) -> None:
        """Raises ValueError unless a round policy with these two fits the rule."""
        if minimum_updates < self.fewest_updates:
            raise ValueError(
                f"aggregation {self.rule} needs minimum_updates of at least "
                f"{self.fewest_updates}, not {minimum_updates}"
            )
        if self.rule != "mean" and max_examples_weight is not None:
            raise ValueError(
                f"aggregation {self.rule} weighs all clients alike: leave out max_examples_weight"
            )

    def num_trimmed(self, num_updates: int) -> int:
        """``trimmed-mean``: values left out at each end, ⌊trim_fraction · num_updates⌋."""
        # As it was written: 0.29 of 100 is 29, which floating point makes a little less.
        return math.floor(Fraction(str(self.trim_fraction or 0)) * num_updates)
