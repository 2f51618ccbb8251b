"""Extractors θ = b + W f(v) of several clients of which b and v are trained, W f in lock step.

The trunk and W are fixed and public, so what is shared, the change of b, is the change of a plain
extractor: no features multiply it, by which a sum over clients could be taken apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from shared.arrays import Array
from shared.crash_points import reached
from shared.federation.sharing import OUTPUT_BIAS
from worker.methods.hypernetwork.weights import HypernetworkWeights, hidden_features
from worker.methods.local_round.sgd import SGDSettings, clip_factor, sgd_step


@dataclass(frozen=True, eq=False)
class BiasChange:
    """What a round made of one client.

    Attributes:
        bias: b − b₀ (P,).
        embedding: v (e,) after the round.
        feature_norm_squared: ‖f‖² after the round.
    """

    bias: torch.Tensor
    embedding: torch.Tensor
    feature_norm_squared: float

    def deltas(self) -> dict[str, Array]:
        """The change of b, by its name."""
        return {OUTPUT_BIAS: self.bias.cpu().numpy()}


class BiasGroup:
    """Biases and embeddings; see :class:`worker.methods.hypernetwork.generator.Group`."""

    def __init__(
        self,
        weights: HypernetworkWeights,
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
            settings: of the descent, for b and the embeddings alike.
            clip_norm: largest norm of ∂L/∂b, and of the embedding's gradient on its own.
        """
        self._weights, self._feature_scale = weights, feature_scale
        self._settings, self._clip_norm = settings, clip_norm
        self._biases = weights.output_bias.expand(len(embeddings), -1).clone()
        self._embeddings = embeddings.clone()
        self._gradients = torch.empty_like(self._biases)
        self._velocities = [torch.zeros_like(self._biases), torch.zeros_like(self._embeddings)]

    def generate(self, count: int) -> torch.Tensor:
        """θ (count, P) of the first ``count`` clients' present biases and embeddings."""
        return torch.addmm(self._biases[:count], self._hidden(count), self._weights.output_weight.T)

    def gradient_rows(self, count: int) -> torch.Tensor:
        """Where ∂L/∂θ (count, P) of the coming step belongs: the caller writes it there."""
        return self._gradients[:count]

    def step(self, count: int) -> None:
        """Take one step of the first ``count`` clients, with the gradients the caller wrote."""
        reached("step")
        gradients = self._gradients[:count]
        features = self._hidden(count)
        upstream = (gradients @ self._weights.output_weight) * (features > 0) * self._feature_scale
        for parameter, gradient, velocity, settings in zip(
            (self._biases[:count], self._embeddings[:count]),
            (gradients, upstream @ self._weights.trunk_weight),
            self._velocities,
            (self._settings, replace(self._settings, weight_decay=0.0)),
            strict=True,
        ):
            factors = clip_factor(torch.linalg.vector_norm(gradient, dim=-1), self._clip_norm)
            sgd_step(parameter, gradient * factors[:, None], velocity[:count], settings)

    def change(self, client: int) -> BiasChange:
        """What the steps so far made of one client.

        To be asked when the client has taken its last step, before the others take another.
        """
        features = self._hidden(client + 1)[client]
        return BiasChange(
            bias=self._biases[client] - self._weights.output_bias,
            embedding=self._embeddings[client].clone(),
            feature_norm_squared=float(features.square().sum()),
        )

    def _hidden(self, count: int) -> torch.Tensor:
        weights = self._weights
        return hidden_features(
            weights.trunk_weight, weights.trunk_bias, self._embeddings[:count], self._feature_scale
        )
