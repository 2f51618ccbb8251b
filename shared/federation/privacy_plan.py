"""Differential privacy of what clients send: the plan, and what noise it asks for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.federation.protection_plan import clients_needed, fewer_than_a_third
from shared.privacy_accountant import PrivacyBudget, epsilon_spent
from shared.validation import MAX_COUNT

_HELD = 0.75
"""Share of the rounds in which the learning rate stays."""
_FINAL_SHARE = 0.1
"""Of the learning rate, in the last round."""


class PrivacyPlan(BaseModel):
    """What is sent in ``rounds`` rounds is (ε, δ)-private with respect to one example or client.

    Of two data sets that differ in the unit, one has zeros where the other has its gradient, or its
    change: how many examples there are, and who takes part, is no secret. PROTOCOL.md, section
    "Differential privacy", is normative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Literal["example", "client"] = "example"
    """``example``: a round is one step, on clipped gradients of single examples. ``client``: a
    round is the method's own, and a client's whole change is clipped."""
    epsilon: float = Field(default=8.0, gt=0.0, le=1000.0)
    delta: float = Field(default=1e-5, gt=0.0, lt=1.0)
    rounds: int = Field(ge=1, le=1_000_000)
    """Largest number of a round that a client trains in; the budget is spread over so many."""
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest norm of one example's gradient; or of one client's change, times its weight."""
    sample_rate: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability of each example to be in a round's sample."""
    learning_rate: float = Field(default=4.0, gt=0.0, le=1000.0)
    """On the sum of clipped gradients over the expected sample's size. In the last quarter of
    ``rounds`` it falls in a straight line to a tenth, so that the noise of the last steps is small
    in the final weights."""
    noise_multiplier: float = Field(gt=0.0, le=1e6)
    """σ: the noise's standard deviation over what one unit can change in the sum."""
    noise_clients: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """Clients of a secure sum whose noise is enough: so many must be honest. By default all
    without whom the sum fails, but for a third of the cohort, who may help the coordinator."""

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        if self.unit == "client" and self.sample_rate != 1.0:
            raise ValueError("sample_rate is of examples: leave it out where the unit is client")
        return self

    @property
    def budget(self) -> PrivacyBudget:
        """What the noise has to keep to: a round is one step."""
        return PrivacyBudget(self.epsilon, self.delta, self.sample_rate, self.rounds)

    def epsilon_after(self, round_number: int) -> float:
        """ε that a client has spent at most when it has sent its update of this round.

        It sends one for each number at most, so earlier numbers bound what it has sent, whatever it
        remembers of them. The first call for a number takes a fraction of a second.
        """
        return epsilon_spent(
            self.noise_multiplier,
            delta=self.delta,
            sample_rate=self.sample_rate,
            num_steps=round_number,
        )

    def learning_rate_in(self, round_number: int) -> float:
        """Of the step of a round."""
        progress = min(1.0, (round_number - 1) / max(1, self.rounds - 1))
        fallen = max(0.0, (progress - _HELD) / (1 - _HELD))
        return self.learning_rate * (1 - (1 - _FINAL_SHARE) * fallen)

    def sensitivity(self, max_examples_weight: int, round_number: int) -> float:
        """Largest norm of what one unit changes in a weighted sum of clients' changes.

        A client of n examples has the weight min(n, cap) / cap, so that an example counts at most
        η · clip_norm / (sample_rate · cap), whoever has it; η is the round's learning rate.
        """
        if self.unit == "client":
            return self.clip_norm
        rate = self.learning_rate_in(round_number)
        return rate * self.clip_norm / (self.sample_rate * max_examples_weight)

    def noise_share(self, cohort_size: int, minimum_updates: int) -> int:
        """Clients of a cohort whose noise together is all that is needed.

        Of this very cohort, which may be smaller than ``round_policy.cohort_size``.
        """
        needed = clients_needed(cohort_size, minimum_updates)
        if self.noise_clients is not None:
            return min(self.noise_clients, needed)
        return needed - fewer_than_a_third(cohort_size)
