"""How much noise a privacy budget asks for, by Opacus' RDP accountant."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import PrivacyBudgetError


@functools.lru_cache
def noise_multiplier(*, epsilon: float, delta: float, sample_rate: float, num_steps: int) -> float:
    """The least σ, the noise's standard deviation over the clip norm, that keeps to a budget.

    Of (ε, δ) for one example after ``num_steps`` steps of the subsampled Gaussian mechanism, each
    on a Poisson sample (Mironov et al., 2019). Larger than the best by at most what 0.01 of ε is
    worth.

    Args:
        epsilon: ε.
        delta: δ.
        sample_rate: probability of an example to be in a step's sample, at most 1.
        num_steps: steps of all rounds together.

    Raises:
        PrivacyBudgetError: no noise is enough.
    """
    # Importing it takes as long as torch's own, and most federations need none.
    from opacus.accountants.utils import get_noise_multiplier  # noqa: PLC0415

    with _any_order():
        try:
            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=num_steps,
                    accountant="rdp",
                )
            )
        except ValueError as error:
            raise PrivacyBudgetError(
                f"no amount of noise keeps to epsilon {epsilon:g} at delta {delta:g} in "
                f"{num_steps} steps with a sample rate of {sample_rate:.4g}"
            ) from error


def sufficient_noise_multiplier(
    agreed: float | None, *, epsilon: float, delta: float, sample_rate: float, num_steps: int
) -> float:
    """The agreed σ, if it keeps to the budget; the least that does, if none is agreed.

    Raises:
        PrivacyBudgetError: the agreed noise is not enough, or none is.
    """
    if agreed is None or _epsilon(agreed, delta, sample_rate, num_steps) > epsilon:
        needed = noise_multiplier(
            epsilon=epsilon, delta=delta, sample_rate=sample_rate, num_steps=num_steps
        )
        if agreed is None:
            return needed
        raise PrivacyBudgetError(
            f"epsilon {epsilon:g} at delta {delta:g} in {num_steps} steps with a sample rate of "
            f"{sample_rate:.4g} needs a noise multiplier of {needed:.4g}, "
            f"but {agreed:.4g} is agreed"
        )
    return agreed


@functools.lru_cache
def _epsilon(sigma: float, delta: float, sample_rate: float, num_steps: int) -> float:
    from opacus.accountants import RDPAccountant  # noqa: PLC0415 - as above

    accountant = RDPAccountant()
    accountant.history = [(sigma, sample_rate, num_steps)]
    with _any_order():
        return float(accountant.get_epsilon(delta=delta))


@contextmanager
def _any_order() -> Iterator[None]:
    with warnings.catch_warnings():
        # That a wider range of orders could give a smaller σ: what is given is valid all the same.
        warnings.filterwarnings("ignore", "Optimal order is the")
        yield
