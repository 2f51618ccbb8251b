"""Hypernetworks of several clients trained in lock step, from the same shared weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared.arrays import Array
from shared.crash_points import reached
from shared.federation.sharing import OUTPUT_BIAS
from shared.tensors.low_rank import FactoredDelta
from worker.methods.hypernetwork.factored_sgd import FactoredLayer, LayerChange
from worker.methods.hypernetwork.weights import (
    OUTPUT_WEIGHT,
    TRUNK_BIAS,
    TRUNK_WEIGHT,
    HypernetworkWeights,
    hidden_features,
)
from worker.methods.local_round.sgd import SGDSettings, clip_factor, sgd_step


@dataclass(frozen=True, eq=False)
class HypernetworkChange:
    """What a round made of one client's hypernetwork: the changes of φ, and the new embedding.

    Attributes:
        trunk_weight: A − A₀ (h, e).
        trunk_bias: a − a₀ (h,).
        output: changes of W and b.
        embedding: v (e,) after the round.
        feature_norm_squared: ‖f‖² after the round.
    """

    trunk_weight: torch.Tensor
    trunk_bias: torch.Tensor
    output: LayerChange
    embedding: torch.Tensor
    feature_norm_squared: float

    def deltas(self) -> dict[str, Array | FactoredDelta]:
        """The changes of A, a, W and b by name; W's in factors."""
        return {
            TRUNK_WEIGHT: self.trunk_weight.cpu().numpy(),
            TRUNK_BIAS: self.trunk_bias.cpu().numpy(),
            OUTPUT_WEIGHT: FactoredDelta(
                scale=self.output.scale,
                left=self.output.left.cpu().numpy(),
                right=self.output.right.cpu().numpy(),
            ),
            OUTPUT_BIAS: self.output.bias.cpu().numpy(),
        }


class HypernetworkGroup:
    """See :class:`worker.methods.hypernetwork.generator.Group`."""

    def __init__(
        self,
        weights: HypernetworkWeights,
        embeddings: torch.Tensor,
        *,
        feature_scale: float,
        max_rows: int,
        settings: SGDSettings,
        clip_norm: float,
    ) -> None:
        """Start n clients from the same weights.

        Args:
            weights: φ before the round.
            embeddings: (n, e), the clients' own.
            feature_scale: factor on the hidden features.
            max_rows: of the output layer, see :class:`FactoredLayer`.
            settings: of the descent, for φ and the embeddings alike.
            clip_norm: largest norm of all of φ's gradient, and of the embedding's on its own.
        """
        count = len(embeddings)
        self._start = weights
        self._feature_scale, self._settings = feature_scale, settings
        self._clip_norm = clip_norm
        self._output = FactoredLayer(
            weights.output_weight, weights.output_bias, count, max_rows, settings
        )
        self._trunk_weight = weights.trunk_weight.expand(count, -1, -1).clone()
        self._trunk_bias = weights.trunk_bias.expand(count, -1).clone()
        self._embeddings = embeddings.clone()
        self._velocities = [
            torch.zeros_like(parameter)
            for parameter in (self._trunk_weight, self._trunk_bias, self._embeddings)
        ]

    def generate(self, count: int) -> torch.Tensor:
        """θ (count, P) of the first ``count`` clients' present weights and embeddings."""
        return self._output.forward(self._hidden(count))

    def gradient_rows(self, count: int) -> torch.Tensor:
        """Where ∂L/∂θ (count, P) of the coming step belongs: the caller writes it there."""
        return self._output.gradient_rows(count)

    def step(self, count: int) -> None:
        """Take one step of the first ``count`` clients, with the gradients the caller wrote."""
        reached("step")
        trunk_weight, trunk_bias = self._trunk_weight[:count], self._trunk_bias[:count]
        embeddings = self._embeddings[:count]
        features = self._hidden(count)
        # relu passes the gradient where it passed a value.
        upstream = self._output.backward(count) * (features > 0) * self._feature_scale
        trunk_gradient = upstream.unsqueeze(2) * embeddings.unsqueeze(1)
        embedding_gradient = torch.bmm(upstream.unsqueeze(1), trunk_weight).squeeze(1)

        # The norm of an outer product is the product of the norms.
        norm_squared = _norm_squared(self._output.gradient_rows(count)) * (
            1 + _norm_squared(features)
        ) + _norm_squared(upstream) * (1 + _norm_squared(embeddings))
        factors = self._clip_factors(norm_squared)
        embedding_factors = self._clip_factors(_norm_squared(embedding_gradient))

        self._output.step(features, factors)
        for parameter, gradient, velocity in zip(
            (trunk_weight, trunk_bias, embeddings),
            (
                trunk_gradient * factors[:, None, None],
                upstream * factors[:, None],
                embedding_gradient * embedding_factors[:, None],
            ),
            self._velocities,
            strict=True,
        ):
            sgd_step(parameter, gradient, velocity[:count], self._settings)

    def change(self, client: int) -> HypernetworkChange:
        """What the steps so far made of one client.

        To be asked when the client has taken its last step, before the others take another.
        """
        features = self._hidden(client + 1)[client]
        return HypernetworkChange(
            trunk_weight=self._trunk_weight[client] - self._start.trunk_weight,
            trunk_bias=self._trunk_bias[client] - self._start.trunk_bias,
            output=self._output.change(client),
            embedding=self._embeddings[client].clone(),
            feature_norm_squared=float(_norm_squared(features)),
        )

    def _hidden(self, count: int) -> torch.Tensor:
        return hidden_features(
            self._trunk_weight[:count],
            self._trunk_bias[:count],
            self._embeddings[:count],
            self._feature_scale,
        )

    def _clip_factors(self, norm_squared: torch.Tensor) -> torch.Tensor:
        return clip_factor(norm_squared.sqrt(), self._clip_norm)


def _norm_squared(vectors: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norm.square()
