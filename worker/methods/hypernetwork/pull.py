"""One step of a hypernetwork and an embedding after a change of what they generate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared.arrays import Array
from shared.federation.hyperparameters import PFedHNPlan
from shared.federation.sharing import OUTPUT_BIAS
from shared.tensors.low_rank import FactoredDelta
from worker.methods.hypernetwork.weights import (
    OUTPUT_WEIGHT,
    TRUNK_BIAS,
    TRUNK_WEIGHT,
    HypernetworkWeights,
    hidden_features,
)
from worker.methods.local_round.sgd import clip_factor


@dataclass(frozen=True, eq=False)
class Pull:
    """What a change of θ makes of one client's hypernetwork and embedding.

    Attributes:
        deltas: changes of A, a, W and b, by name; W's is one outer product.
        embedding: the change of v (e,).
        feature_norm_squared: ‖f‖² before the step.
    """

    deltas: dict[str, Array | FactoredDelta]
    embedding: torch.Tensor
    feature_norm_squared: float


def pull_towards(
    weights: HypernetworkWeights, embedding: torch.Tensor, change: torch.Tensor, plan: PFedHNPlan
) -> Pull:
    """One step of SGD on φ and v along −Jᵀ·Δθ, J the Jacobian of θ = W f(v) + b.

    Shamsian et al., ICML 2021, equation 4: minus Δθ stands for the gradient at θ.

    Args:
        weights: φ, not changed.
        embedding: v (e,).
        change: Δθ (P,), what local training made of θ(v).
        plan: its rate, and the largest norm of the whole step's gradient.
    """
    trunk_weight = weights.trunk_weight.detach().requires_grad_()
    trunk_bias = weights.trunk_bias.detach().requires_grad_()
    variable = embedding.detach().requires_grad_()
    features = hidden_features(trunk_weight, trunk_bias, variable, plan.feature_scale)
    below = torch.autograd.grad(
        features, (trunk_weight, trunk_bias, variable), change @ weights.output_weight
    )
    features = features.detach()
    feature_norm_squared = features.square().sum()
    norm_squared = change.square().sum() * (1 + feature_norm_squared)
    for one in below:
        norm_squared = norm_squared + one.square().sum()
    rate = plan.hypernetwork_learning_rate * clip_factor(norm_squared.sqrt(), plan.clip_norm)
    bias = rate * change
    return Pull(
        deltas={
            TRUNK_WEIGHT: (rate * below[0]).cpu().numpy(),
            TRUNK_BIAS: (rate * below[1]).cpu().numpy(),
            OUTPUT_WEIGHT: FactoredDelta(
                0.0, bias[None].cpu().numpy(), features[None].cpu().numpy()
            ),
            OUTPUT_BIAS: bias.cpu().numpy(),
        },
        embedding=rate * below[2],
        feature_norm_squared=float(feature_norm_squared),
    )
