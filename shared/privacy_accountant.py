"""How much noise a privacy budget asks for, by privacy loss distributions.

Of the subsampled Gaussian mechanism: in each step every example is in the sample with the same
probability (Poisson sampling), its gradient's norm is bounded by C, and noise N(0, (σC)²) is added
to each element of the sum. Two data sets are neighbours if one has an example that the other lacks.
Google's dp-accounting composes the steps (Koskela et al., AISTATS 2020; Doroshenko et al., PETS
2022); what it gives is never less than ε.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from shared.validation import InvalidInput

_LARGEST_NOISE_MULTIPLIER = 1e4
"""Nothing is learned under so much noise."""
_FAR = 4.0
"""Times: estimates are right to less. What is farther off is not computed: it could take hours."""
_LEAST_GUESS = 0.4
_RELATIVE_TOLERANCE = 1e-3
"""Of the least σ."""
_COARSEST_GRID = 1e-3
"""On which privacy losses are rounded up; a budget of less than 1 has a finer one in proportion."""
_GRID_POINTS = 30_000
"""About as many, at most, for one step."""


class PrivacyBudgetError(InvalidInput, ValueError):
    """Noise that does not keep to ε, or a budget that no noise keeps to."""


@dataclass(frozen=True)
class PrivacyBudget:
    """(ε, δ) for one example over ``num_steps`` steps.

    Attributes:
        epsilon: ε.
        delta: δ.
        sample_rate: probability of an example to be in a step's sample, at most 1.
        num_steps: all together.
    """

    epsilon: float
    delta: float
    sample_rate: float
    num_steps: int

    def __str__(self) -> str:
        return (
            f"epsilon {self.epsilon:g} at delta {self.delta:g} in {self.num_steps} steps with a "
            f"sample rate of {self.sample_rate:.4g}"
        )


@functools.lru_cache(maxsize=4096)
def epsilon_spent(
    noise_multiplier: float,
    *,
    delta: float,
    sample_rate: float,
    num_steps: int,
    budget: float = 1.0,
) -> float:
    """ε for one example after ``num_steps`` steps, at this δ.

    Args:
        noise_multiplier: σ, positive.
        delta: δ.
        sample_rate: probability of an example to be in a step's sample, at most 1.
        num_steps: 0 or more.
        budget: ε that the answer is compared with; for a smaller one it is tighter, and slower.
    """
    if num_steps == 0:
        return 0.0
    # Importing them takes as long as all else that a command imports.
    from dp_accounting import dp_event  # noqa: PLC0415
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    step: dp_event.DpEvent = dp_event.GaussianDpEvent(noise_multiplier)
    if sample_rate < 1:
        step = dp_event.PoissonSampledDpEvent(sample_rate, step)
    # Losses of one step are about as large as this, with the probabilities that δ is about.
    largest_loss = (0.5 / noise_multiplier + 8) / noise_multiplier
    grid = max(_COARSEST_GRID * min(1.0, budget), largest_loss / _GRID_POINTS)
    accountant = PLDAccountant(value_discretization_interval=grid)
    accountant.compose(dp_event.SelfComposedDpEvent(step, num_steps))
    return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=256)
def least_noise_multiplier(budget: PrivacyBudget) -> float:
    """The least σ that keeps to a budget, or at most 0.2 % more.

    Raises:
        PrivacyBudgetError: no noise is enough.
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - no other command needs it

    def excess(log_sigma: float) -> float:
        return math.log(max(_spent(math.exp(log_sigma), budget), 1e-12) / budget.epsilon)

    # The classical bound for one step of many (Dwork and Roth, 2014) is a first guess.
    classical = math.sqrt(2 * budget.num_steps * math.log(1.25 / budget.delta)) / budget.epsilon
    guess = math.log(max(_LEAST_GUESS, budget.sample_rate * classical))
    largest = math.log(_LARGEST_NOISE_MULTIPLIER)
    if guess > largest + math.log(_FAR):
        raise PrivacyBudgetError(f"no amount of noise keeps to {budget}")
    low = high = min(guess, largest)
    while excess(high) > 0:
        low, high = high, high + math.log(2)
        if high > largest:
            raise PrivacyBudgetError(f"no amount of noise keeps to {budget}")
    while low == high or excess(low) <= 0:
        high, low = low, low - math.log(2)
    tolerance = _RELATIVE_TOLERANCE / 2
    found = float(brentq(excess, low, high, xtol=tolerance))
    while excess(found) > 0:
        found += tolerance
    return math.exp(found)


def check_noise_multiplier(noise_multiplier: float, budget: PrivacyBudget) -> None:
    """Raises PrivacyBudgetError unless an agreed σ keeps to a budget."""
    if _spent(noise_multiplier, budget) > budget.epsilon:
        raise PrivacyBudgetError(
            f"{budget} needs a noise multiplier of {least_noise_multiplier(budget):.4g}, "
            f"but {noise_multiplier:.4g} is agreed"
        )


def _spent(noise_multiplier: float, budget: PrivacyBudget) -> float:
    # Composed, the steps are about one Gaussian mechanism with this μ²/2 (Dong et al., 2022).
    mean_loss = (budget.sample_rate**2 * budget.num_steps / noise_multiplier**2) / 2
    if mean_loss > _FAR * (budget.epsilon + _FAR):
        return mean_loss
    return epsilon_spent(
        noise_multiplier,
        delta=budget.delta,
        sample_rate=budget.sample_rate,
        num_steps=budget.num_steps,
        budget=budget.epsilon,
    )
