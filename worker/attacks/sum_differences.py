"""A client's part of a cohort's sums over many rounds, found from who was in which.

Every sum adds its members' parts. The mean of the sums that a client was in shows its part as any
sum does. Two ways get the others out of it, where cohorts differ from round to round:

- the mean of the sums with the client, less the mean of those without it;
- least squares over all clients, of least norm (Lam et al., "Gradient Disaggregation", ICML 2021).

Both find the part that is the same in every round (So et al., "Securing Secure Aggregation:
Mitigating Multi-Round Privacy Leakage in Federated Learning", AAAI 2023). Where the same clients
are summed each time there is nothing to solve.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def own_means(sums: Float64, took_part: Flags) -> Float64:
    """(n, P): for each client the mean of the sums (T, P) that it was in, ``took_part`` (T, n).

    A client that was in none has zeros.
    """
    counts = took_part.sum(0)[:, None]
    means: Float64 = (took_part.T @ sums) / np.maximum(counts, 1)
    return means


def differences(sums: Float64, took_part: Flags) -> Float64:
    """(n, P): the means of :func:`own_means`, less those of the sums that the client was not in.

    Of a client that was in all or in none, the former alone.
    """
    counts = took_part.sum(0)[:, None]
    with_client = own_means(sums, took_part)
    without = own_means(sums, ~took_part)
    is_split = (counts > 0) & (counts < len(sums))
    return np.where(is_split, with_client - without, with_client)


def least_squares(sums: Float64, took_part: Flags) -> Float64:
    """(n, P): parts that add up to the sums, as if they were the same in each round."""
    parts: Float64 = np.linalg.pinv(took_part.astype(np.float64)) @ sums
    return parts
