"""A trunk that shows one client in each column of W, by a coordinator that lies about the weights.

The sum of HyperFL updates is Σ gᵢ fᵢᵀ, f = relu(A v + a). Whoever knows the embeddings vᵢ, from an
update seen in the clear, and publishes A and a, chooses the fᵢ: feature k fires for client k alone,
so that column k of the sum is that client's own, without any arithmetic. This project's own; the
idea of weights that silence all but one client is Pasquini et al.'s, "Eluding Secure Aggregation in
Federated Learning via Model Inconsistency", CCS 2022. Where b alone is shared there is no trunk to
choose: A, a and W are drawn by everybody from one seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shared.arrays import NamedArrays
from worker.methods.hypernetwork.weights import TRUNK_BIAS, TRUNK_WEIGHT

Float64 = npt.NDArray[np.float64]


def steer_trunk(weights: NamedArrays, embeddings: Float64) -> NamedArrays:
    """The weights with a trunk (h, e) for the clients' ``embeddings`` (n, e), n ≥ 2.

    The first h clients have a feature each, which is 1 before it is scaled. It is 0 of the others
    wherever the embeddings can be told apart, which e ≥ n of them always can. Features beyond n
    are dead.
    """
    trunk = np.zeros_like(weights[TRUNK_WEIGHT])
    bias = np.full_like(weights[TRUNK_BIAS], -1.0)
    count = min(len(trunk), len(embeddings))
    rows = np.linalg.pinv(embeddings).T[:count]
    reached = rows @ embeddings.T
    own = np.diag(reached).copy()
    np.fill_diagonal(reached, -np.inf)
    thresholds = (own + reached.max(axis=1)) / 2
    size = np.maximum(own - thresholds, 1e-6)
    trunk[:count] = rows / size[:, None]
    bias[:count] = -thresholds / size
    return dict(weights) | {TRUNK_WEIGHT: trunk, TRUNK_BIAS: bias}
