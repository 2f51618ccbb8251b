"""SGD on large linear layers, exactly, without ever writing to their weights.

n clients start from the same layer θ = W f + b with W (P, h), b (P,). The gradient of W is an outer
product g fᵀ with g = ∂L/∂θ, and SGD with momentum and weight decay is linear in it. So after any
number of steps a client's weights are

    W = α W₀ + Σ_r β_r g_r f_rᵀ,    b = α b₀ + Σ_r β_r g_r c_r,

where the row r of step s holds g_s, c_s f_s and the clip factor c_s, and the scalars follow

    momentum   a ← μ a + λ α,   m_r ← μ m_r + λ β_r    (a new row starts with m = 1, β = 0)
    weights    α ← α − η a,     β_r ← β_r − η m_r.

They are the same for all clients in lock step, since the clip factors lie in the rows. A step costs
one pass over W₀ for all clients together (a matrix product each for W₀ f and W₀ᵀ g) and two over
each client's rows. No division occurs, so a weight decay that drives α to 0 does no harm.

When the rows reach ``max_rows`` they are folded, exactly: Σ β_r g_r f_rᵀ and Σ m_r g_r f_rᵀ become
2(h + 1) rows whose right sides are unit vectors. So memory and time per step are bounded, however
many steps there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.methods.local_round.sgd import SGDSettings


@dataclass(frozen=True, eq=False)
class LayerChange:
    """A client's W − W₀ = scale·W₀ + leftᵀ·right, left (r, P), right (r, h), r ≤ h; b − b₀ (P,)."""

    scale: float
    left: torch.Tensor
    right: torch.Tensor
    bias: torch.Tensor


def rows_needed(num_features: int, num_steps: int) -> int:
    """Rows for ``num_steps`` steps of a layer with h features: one each, but never too many.

    Folding pays once the unfolded rows clearly outnumber the 2(h + 1) that a fold leaves. At twice
    that the bound costs at most four times the memory of W itself.
    """
    return min(num_steps, max(32, 4 * (num_features + 1)))


class FactoredLayer:
    """The layers of n clients in lock step; the first ``count`` of them take part in a step."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        num_clients: int,
        max_rows: int,
        settings: SGDSettings,
    ) -> None:
        """Start n copies of one layer.

        Args:
            weight: W₀ (P, h); read, never changed or copied.
            bias: b₀ (P,), with the weight's dtype and device, which become this layer's.
            num_clients: n.
            max_rows: rows for each client; as many as steps, or more than 2(h + 1).
            settings: of the descent.
        """
        num_outputs, num_features = weight.shape
        self._weight, self._bias, self._settings = weight, bias, settings
        self._gradients = weight.new_empty(num_clients, max_rows, num_outputs)
        self._features = weight.new_empty(num_clients, max_rows, num_features + 1)
        self._num_rows = 0
        self._base_scale = 1.0
        self._base_momentum = 0.0
        self._row_scale = torch.zeros(max_rows, dtype=torch.float64, device=weight.device)
        self._row_momentum = torch.zeros_like(self._row_scale)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """θ (count, P) of the first ``count`` clients' features f (count, h)."""
        scale = self._base_scale
        outputs = torch.addmm(self._bias, features, self._weight.T, beta=scale, alpha=scale)
        gradients, rows = self._rows(len(features))
        lifted = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        mixture = torch.bmm(lifted.unsqueeze(1), rows.mT) * self._row_scale_as(features)
        outputs.unsqueeze(1).baddbmm_(mixture, gradients)
        return outputs

    def gradient_rows(self, count: int) -> torch.Tensor:
        """Where g = ∂L/∂θ (count, P) of the coming step belongs: the caller writes it there."""
        if self._num_rows == self._gradients.shape[1]:
            self._fold(count)
        return self._gradients[:count, self._num_rows]

    def backward(self, count: int) -> torch.Tensor:
        """∂L/∂f (count, h) of the gradients the caller has written."""
        new = self.gradient_rows(count)
        scaled = self._base_scale * (new @ self._weight)
        gradients, rows = self._rows(count)
        products = torch.bmm(new.unsqueeze(1), gradients.mT) * self._row_scale_as(new)
        return scaled + torch.bmm(products, rows[:, :, :-1]).squeeze(1)

    def step(self, features: torch.Tensor, clip_factors: torch.Tensor) -> None:
        """Take one step of the first ``count`` clients, with the gradients the caller has written.

        Args:
            features: f (count, h) of this step's forward pass.
            clip_factors: (count,), what each client's gradient is multiplied by.
        """
        row = self._num_rows
        lifted = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        self._features[: len(features), row] = lifted * clip_factors.unsqueeze(1)
        self._row_scale[row] = 0.0
        self._num_rows += 1
        rate, momentum = self._settings.learning_rate, self._settings.momentum
        decay = self._settings.weight_decay
        self._base_momentum = momentum * self._base_momentum + decay * self._base_scale
        self._base_scale -= rate * self._base_momentum
        scales, momenta = self._row_scale[: row + 1], self._row_momentum[: row + 1]
        momenta.mul_(momentum).add_(scales, alpha=decay)
        momenta[row] = 1.0
        scales.sub_(momenta, alpha=rate)

    def change(self, client: int) -> LayerChange:
        """What the steps so far made of one client's layer.

        To be asked when the client has taken its last step, before the others take another.
        """
        gradients = self._gradients[client, : self._num_rows]
        right = self._features[client, : self._num_rows] * self._row_scale_as(gradients).unsqueeze(
            1
        )
        scale = self._base_scale - 1.0
        bias = scale * self._bias + right[:, -1] @ gradients
        weight_side = right[:, :-1]
        num_features = weight_side.shape[1]
        if self._num_rows <= num_features:
            return LayerChange(scale, gradients.clone(), weight_side, bias)
        unit = torch.eye(num_features, dtype=right.dtype, device=right.device)
        return LayerChange(scale, weight_side.T @ gradients, unit, bias)

    def _rows(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._gradients[:count, : self._num_rows], self._features[:count, : self._num_rows]

    def _row_scale_as(self, like: torch.Tensor) -> torch.Tensor:
        return self._row_scale[: self._num_rows].to(like.dtype)

    def _fold(self, count: int) -> None:
        gradients, rows = self._rows(count)
        width = rows.shape[2]
        scales = torch.stack([self._row_scale, self._row_momentum])[:, : self._num_rows]
        for client in range(count):
            # (2, R, h + 1): the two sums' mixtures of the R rows.
            mixtures = scales.to(rows.dtype).unsqueeze(2) * rows[client]
            gradients[client, : 2 * width] = mixtures.mT.reshape(2 * width, -1) @ gradients[client]
        unit = torch.eye(width, dtype=rows.dtype, device=rows.device)
        self._features[:count, : 2 * width] = unit.repeat(2, 1)
        self._row_scale[:width], self._row_scale[width : 2 * width] = 1.0, 0.0
        self._row_momentum[:width], self._row_momentum[width : 2 * width] = 0.0, 1.0
        self._num_rows = 2 * width
