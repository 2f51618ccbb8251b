"""Fitting a client's private part to a hypernetwork that stays as it is."""

from __future__ import annotations

import torch

from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.weights import HypernetworkWeights
from worker.methods.interface import PrivateTensors, TrainingDivergedError
from worker.methods.local_round.sgd import SGDSettings, clip_factor, sgd_step


def fit_private_part(
    client: HyperFLClient,
    weights: HypernetworkWeights,
    *,
    epochs: int,
    feature_scale: float,
    settings: SGDSettings,
    clip_norm: float,
) -> PrivateTensors:
    """The private tensors after ``epochs`` of: a head step, then SGD on only the embedding.

    A head step computes the features anew, since the embedding has moved θ(v) meanwhile.

    Args:
        client: with a plan of as many epochs, each of which has one head step.
        weights: φ, never changed.
        epochs: how many.
        feature_scale: factor on the hidden features.
        settings: of the descent on v.
        clip_norm: largest norm of ∂L/∂v.

    Raises:
        TrainingDivergedError: a private tensor became NaN or infinite.
    """
    embedding = client.embedding.clone()
    velocity = torch.zeros_like(embedding)
    for _ in range(epochs):
        client.train_head(weights.generate(embedding, feature_scale))
        for _ in range(client.num_steps // epochs):
            gradient = _embedding_gradient(client, weights, embedding, feature_scale)
            norm = torch.linalg.vector_norm(gradient)
            gradient *= clip_factor(norm, clip_norm)
            sgd_step(embedding, gradient, velocity, settings)
    private = client.private(embedding)
    if not all(bool(tensor.isfinite().all()) for tensor in private.values()):
        raise TrainingDivergedError([client.name])
    return private


def _embedding_gradient(
    client: HyperFLClient,
    weights: HypernetworkWeights,
    embedding: torch.Tensor,
    feature_scale: float,
) -> torch.Tensor:
    """∂L/∂v (e,) of the next batch's mean loss."""
    variable = embedding.detach().requires_grad_()
    theta = weights.generate(variable, feature_scale)
    (gradient,) = torch.autograd.grad(theta, variable, client.gradient(theta))
    return gradient
