"""Fitting a client's private part to a hypernetwork that stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from shared.federation.hyperparameters import HypernetworkPlan
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.generator import Generator
from worker.methods.interface import Participant, PrivateTensors, TrainingDivergedError
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.methods.local_round.sgd import clip_factor, settings_of, sgd_step


class PrivateFit:
    """Epochs of: a head step, then SGD on only the embedding, under weights that stay."""

    def __init__(
        self, plan: HypernetworkPlan, extractor: FunctionalExtractor, device: torch.device
    ) -> None:
        self._plan, self._extractor, self._device = plan, extractor, device

    def client(
        self,
        participant: Participant,
        round_number: int,
        epochs: int,
        stop_if_asked: Callable[[], None],
    ) -> HyperFLClient:
        """A participant with as many epochs, each of which has one head step.

        The embedding is fitted to the client's own head, which is what it is used with.
        """
        plan = self._plan.model_copy(update={"epochs": epochs, "head_epochs": 1})
        return HyperFLClient(
            participant, round_number, self._extractor, plan, self._device, stop_if_asked
        )

    def run(self, client: HyperFLClient, weights: Generator, epochs: int) -> PrivateTensors:
        """The private tensors after the epochs that :meth:`client` was made for.

        A head step computes the features anew, since the embedding has moved θ(v) meanwhile.
        ``weights`` are φ, never changed.

        Raises:
            TrainingDivergedError: a private tensor became NaN or infinite.
        """
        feature_scale, settings = self._plan.feature_scale, settings_of(self._plan)
        embedding = client.embedding.clone()
        velocity = torch.zeros_like(embedding)
        for _ in range(epochs):
            client.train_head(weights.generate(embedding, feature_scale))
            for _ in range(client.num_steps // epochs):
                gradient = _embedding_gradient(client, weights, embedding, feature_scale)
                norm = torch.linalg.vector_norm(gradient)
                gradient *= clip_factor(norm, self._plan.clip_norm)
                sgd_step(embedding, gradient, velocity, settings)
        private = client.private(embedding)
        if not all(bool(tensor.isfinite().all()) for tensor in private.values()):
            raise TrainingDivergedError([client.name])
        return private


def _embedding_gradient(
    client: HyperFLClient,
    weights: Generator,
    embedding: torch.Tensor,
    feature_scale: float,
) -> torch.Tensor:
    """∂L/∂v (e,) of the next batch's mean loss."""
    variable = embedding.detach().requires_grad_()
    theta = weights.generate(variable, feature_scale)
    (gradient,) = torch.autograd.grad(theta, variable, client.gradient(theta))
    return gradient
