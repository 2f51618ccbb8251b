"""Rules of aggregation that a few hostile clients cannot bend, and the clipping of one update.

Coordinate-wise median and trimmed mean: Yin et al., ICML 2018. Multi-Krum: Blanchard et al.,
NeurIPS 2017, with the number of chosen updates of El Mhamdi et al., ICML 2018. All of them see one
block of coordinates at a time, so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.federation.aggregation_plan import AggregationPlan
from shared.tensors.low_rank import Float64

_COORDINATES_AT_A_TIME = 4096
"""Of 100 clients, 3 MiB: what every pair reads stays in the processor's cache."""


def combine(plan: AggregationPlan, weights: Sequence[int], stack: Float64) -> Float64:
    """What the plan's rule makes of a ``stack`` (clients, …) of changes, which it may change: (…).

    ``weights`` (clients,) are those of the mean, which Multi-Krum takes over the clients that it
    chose: the others' are 0. The other rules count all alike.
    """
    if plan.rule == "median":
        return coordinate_median(stack)
    if plan.rule == "trimmed-mean":
        return trimmed_mean(stack, plan.num_trimmed(len(stack)))
    return mean(stack, weights)


def mean(stack: Float64, weights: Sequence[int]) -> Float64:
    """Σ wᵢxᵢ / Σ wᵢ (…) over the first axis of ``stack`` (clients, …), in the clients' order.

    Raises:
        ValueError: no weight is positive.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError("no update was added")
    result: Float64 = np.zeros(stack.shape[1:])
    for change, weight in zip(stack, weights, strict=True):
        if weight:
            result += np.multiply(change, weight / total, out=change)
    return result


def coordinate_median(stack: Float64) -> Float64:
    """The median (…) over the first axis of ``stack`` (clients, …), both float64.

    Of two middle values it is the mean.

    Sorts ``stack`` in place: with vector instructions several times faster than numpy's median.
    """
    stack.sort(axis=0)
    count = len(stack)
    median: Float64 = (stack[(count - 1) // 2] + stack[count // 2]) / 2
    return median


def trimmed_mean(stack: Float64, num_trimmed: int) -> Float64:
    """The mean (…) over the first axis without the ``num_trimmed`` least and greatest values.

    Sorts ``stack`` (clients, …) in place: the sum runs in order of value, not of client.

    Raises:
        ValueError: nothing would be left.
    """
    if not 0 <= 2 * num_trimmed < len(stack):
        raise ValueError(f"{num_trimmed} values cannot be left out at each end of {len(stack)}")
    stack.sort(axis=0)
    mean: Float64 = stack[num_trimmed : len(stack) - num_trimmed].mean(axis=0)
    return mean


class SquaredDistances:
    """‖xᵢ − xⱼ‖² of every two clients' changes, gathered block by block.

    Attributes:
        matrix: (clients, clients), float64, symmetric, 0 on the diagonal.
    """

    def __init__(self, num_clients: int) -> None:
        self.matrix: Float64 = np.zeros((num_clients, num_clients))

    def add(self, stack: Float64) -> None:
        """Adds the coordinates in ``stack`` (clients, …), float64."""
        flat = stack.reshape(len(stack), -1)
        differences = np.empty((len(flat), min(flat.shape[1], _COORDINATES_AT_A_TIME)))
        for start in range(0, flat.shape[1], _COORDINATES_AT_A_TIME):
            piece = flat[:, start : start + _COORDINATES_AT_A_TIME]
            # Differences, not a Gram matrix: equal updates are at a distance of exactly 0, and
            # have equal scores, which the clients' order decides on every machine.
            for first in range(len(piece) - 1):
                others = differences[first + 1 :, : piece.shape[1]]
                np.subtract(piece[first + 1 :], piece[first], out=others)
                distances = np.einsum("ij,ij->i", others, others)
                self.matrix[first, first + 1 :] += distances
                self.matrix[first + 1 :, first] += distances


def choose_multi_krum(distances: Float64, hostile_clients: int) -> list[int]:
    """The n − f − 2 clients whose n − f − 2 nearest others are nearest, in order.

    Args:
        distances: squared, (n, n).
        hostile_clients: f; the rule is defined for n ≥ 2f + 3. Equal scores are decided by order.

    Raises:
        ValueError: there are fewer clients.
    """
    num_clients = len(distances)
    if num_clients < 2 * hostile_clients + 3:
        raise ValueError(
            f"multi-krum against {hostile_clients} hostile clients needs at least "
            f"{2 * hostile_clients + 3} updates, not {num_clients}"
        )
    num_chosen = num_clients - hostile_clients - 2
    # The first of the sorted distances is a client's own, 0.
    scores = np.sort(distances, axis=1)[:, 1 : num_chosen + 1].sum(axis=1)
    best = np.argsort(scores, kind="stable")[:num_chosen]
    return sorted(int(client) for client in best)


def clip_factor(norm: float, max_norm: float) -> float:
    """What a change of norm ``norm`` is multiplied by, so that it has at most ``max_norm``."""
    return 1.0 if norm <= max_norm else max_norm / norm
