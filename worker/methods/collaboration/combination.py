"""How much a client makes of each head (Xu, Tong and Huang, ICLR 2023, their equation for α)."""

from __future__ import annotations

import numpy as np

from shared.tensors.low_rank import Float64


def combination_weights(variances: Float64, differences: Float64) -> Float64 | None:
    """α (m,) ≥ 0 of sum 1 that minimises Σ_j α_j²·V_j + ‖Σ_j α_j·(H_i − H_j)‖²; None if not found.

    With L = [diag(√V); D], where the columns of D are the differences, the sum is ‖L·α‖². It is
    minimised by non-negative least squares: min ‖L·x‖² + (Σx − 1)² over x ≥ 0, and α = x/Σx. That
    is exact. For x = s·α and q = ‖L·α‖² the best s is 1/(1 + q), which leaves q/(1 + q), and that
    grows with q: the least of it is where q is least.

    Args:
        variances: V (m,), at least 0.
        differences: (m, k), row j is H_i − H_j.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - slow to import, and for this method alone

    count = len(variances)
    stacked = np.concatenate([np.diag(np.sqrt(variances)), differences.T])
    scale = np.abs(stacked).max()
    factor = np.linalg.qr(stacked / (scale or 1.0), mode="r")
    wanted = np.zeros(count + 1)
    wanted[-1] = 1.0
    try:
        found, _ = nnls(np.concatenate([factor, np.ones((1, count))]), wanted)
    except RuntimeError:  # it did not converge
        return None
    total = found.sum()
    if not total > 0.0:
        return None
    weights: Float64 = found / total
    return weights
