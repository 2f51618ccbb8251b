"""Hypernetworks of Kronecker products of several clients, trained from the same shared weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared.arrays import Array
from shared.crash_points import reached
from worker.methods.hypernetwork.kronecker import KroneckerWeights
from worker.methods.hypernetwork.weights import hidden_features
from worker.methods.local_round.sgd import SGDSettings, clip_factor, sgd_step


@dataclass(frozen=True, eq=False)
class KroneckerChange:
    """What a round made of one client.

    Attributes:
        by_name: changes of the six shared tensors, on the CPU.
        embedding: v (e,) after the round.
        feature_norm_squared: ‖f‖² after the round.
    """

    by_name: dict[str, Array]
    embedding: torch.Tensor
    feature_norm_squared: float

    def deltas(self) -> dict[str, Array]:
        """The changes of the shared tensors, by name."""
        return self.by_name


class KroneckerGroup:
    """See :class:`worker.methods.hypernetwork.generator.Group`.

    φ is small, so each client has all of it, and autograd goes through the products.
    """

    def __init__(
        self,
        weights: KroneckerWeights,
        embeddings: torch.Tensor,
        *,
        feature_scale: float,
        settings: SGDSettings,
        clip_norm: float,
    ) -> None:
        """Start n clients from the same weights.

        Args:
            weights: φ before the round.
            embeddings: (n, e), the clients' own.
            feature_scale: factor on the hidden features.
            settings: of the descent, for φ and the embeddings alike.
            clip_norm: largest norm of all of φ's gradient, and of the embedding's on its own.
        """
        self._start, self._feature_scale = weights, feature_scale
        self._settings, self._clip_norm = settings, clip_norm
        count = len(embeddings)
        self._shared = [
            tensor.expand(count, *tensor.shape).clone() for tensor in weights.tensors.values()
        ]
        self._embeddings = embeddings.clone()
        self._velocities = [torch.zeros_like(one) for one in (*self._shared, self._embeddings)]
        self._gradients = embeddings.new_empty(count, weights.layout.num_elements)

    def generate(self, count: int) -> torch.Tensor:
        """θ (count, P) of the first ``count`` clients' present weights and embeddings."""
        with torch.no_grad():
            return self._theta([one[:count] for one in (*self._shared, self._embeddings)])

    def gradient_rows(self, count: int) -> torch.Tensor:
        """Where ∂L/∂θ (count, P) of the coming step belongs: the caller writes it there."""
        return self._gradients[:count]

    def step(self, count: int) -> None:
        """Take one step of the first ``count`` clients, with the gradients the caller wrote."""
        reached("step")
        parameters = [one[:count] for one in (*self._shared, self._embeddings)]
        leaves = [one.detach().requires_grad_() for one in parameters]
        *of_shared, of_embeddings = torch.autograd.grad(
            self._theta(leaves), leaves, self._gradients[:count]
        )
        norms = torch.stack([one.flatten(start_dim=1).norm(dim=1) for one in of_shared]).norm(dim=0)
        factors = clip_factor(norms, self._clip_norm)
        gradients = [one * factors.reshape(-1, *[1] * (one.dim() - 1)) for one in of_shared]
        of_embeddings *= clip_factor(of_embeddings.norm(dim=1, keepdim=True), self._clip_norm)
        for parameter, gradient, velocity in zip(
            parameters, [*gradients, of_embeddings], self._velocities, strict=True
        ):
            sgd_step(parameter, gradient, velocity[:count], self._settings)

    def change(self, client: int) -> KroneckerChange:
        """What the steps so far made of one client.

        To be asked when the client has taken its last step, before the others take another.
        """
        embedding = self._embeddings[client].clone()
        trunk_weight, trunk_bias, *_ = (one[client] for one in self._shared)
        features = hidden_features(trunk_weight, trunk_bias, embedding, self._feature_scale)
        changes = {
            name: (after[client] - before).cpu().numpy()
            for (name, before), after in zip(self._start.tensors.items(), self._shared, strict=True)
        }
        return KroneckerChange(changes, embedding, float(features.square().sum()))

    def _theta(self, parameters: list[torch.Tensor]) -> torch.Tensor:
        *shared, embeddings = parameters
        weights = KroneckerWeights(self._start.layout, *shared)
        return weights.generate(embeddings, self._feature_scale)
