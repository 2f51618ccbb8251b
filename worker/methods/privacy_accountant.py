"""How much noise a privacy budget asks for."""

from __future__ import annotations

import functools
import warnings


@functools.lru_cache
def noise_multiplier(*, epsilon: float, delta: float, sample_rate: float, num_steps: int) -> float:
    """σ, the noise's standard deviation over the clip norm, from Opacus' RDP accountant.

    Of (ε, δ) for one example after ``num_steps`` steps of the subsampled Gaussian mechanism, each
    on a Poisson sample (Mironov et al., 2019). Larger than the best by at most what 0.01 of ε is
    worth.

    Args:
        epsilon: ε.
        delta: δ.
        sample_rate: probability of an example to be in a step's sample, at most 1.
        num_steps: steps of all rounds together.

    Raises:
        ValueError: no noise is enough.
    """
    # Importing it takes as long as torch's own, and most federations need none.
    from opacus.accountants.utils import get_noise_multiplier  # noqa: PLC0415

    with warnings.catch_warnings():
        # That a wider range of orders could give a smaller σ: what is given is valid all the same.
        warnings.filterwarnings("ignore", "Optimal order is the")
        return float(
            get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=num_steps,
                accountant="rdp",
            )
        )
