"""A hypernetwork whose output layer is of Kronecker products: HyperFL++.

Each generated tensor t has n = d₁·d₂ values. Row k of its output layer is not a row of n numbers
but the Kronecker product of one of d₁ and one of d₂: θ_t = L_t diag(f) R_tᵀ + l_t r_tᵀ, read as n
numbers, with L_t (d₁, h), R_t (d₂, h), l_t (d₁,) and r_t (d₂,). So θ_t has at most rank h + 1 as a
matrix (d₁, d₂), and φ has h(d₁ + d₂) numbers in place of h·n. The paper is not out; this is what
the published code of HyperFL++ computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch

from shared.arrays import NamedArrays
from shared.federation.initialisation import RowRange, TensorSpecification
from shared.federation.sharing import KRONECKER_HYPERNETWORK
from shared.federation.specification import ParameterSpecification
from worker.methods.hypernetwork.weights import hidden_features, shared_tensors
from worker.models.layout import TrainableTensor


@dataclass(frozen=True)
class KroneckerLayout:
    """How θ (P,) lies in products: the (d₁, d₂) of each generated tensor, d₁ ≤ d₂."""

    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tensors: Sequence[TrainableTensor]) -> KroneckerLayout:
        """The layout of an extractor's generated tensors, in their order."""
        return cls(tuple(closest_factors(tensor.num_elements) for tensor in tensors))

    @property
    def num_left(self) -> int:
        """Σ d₁."""
        return sum(left for left, _ in self.shapes)

    @property
    def num_right(self) -> int:
        """Σ d₂."""
        return sum(right for _, right in self.shapes)

    @property
    def num_elements(self) -> int:
        """P."""
        return sum(left * right for left, right in self.shapes)


@dataclass(frozen=True, eq=False)
class KroneckerWeights:
    """φ: trunk A (…, h, e), a (…, h), and the output layer's four, of all generated tensors.

    Attributes:
        layout: where each tensor's rows begin.
        left: the L_t below each other, (…, Σd₁, h).
        right: the R_t below each other, (…, Σd₂, h).
        bias_left: the l_t one after the other, (…, Σd₁).
        bias_right: the r_t one after the other, (…, Σd₂).
    """

    layout: KroneckerLayout
    trunk_weight: torch.Tensor
    trunk_bias: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    bias_left: torch.Tensor
    bias_right: torch.Tensor

    @classmethod
    def from_arrays(
        cls,
        arrays: NamedArrays,
        parameters: ParameterSpecification,
        layout: KroneckerLayout,
        device: torch.device,
    ) -> KroneckerWeights:
        """The weights in ``arrays``, copied to ``device`` with their dtype.

        Raises:
            ValueError: a name or a shape is not the specification's.
        """
        return cls(layout, *shared_tensors(arrays, parameters, KRONECKER_HYPERNETWORK, device))

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The six shared tensors, by their names."""
        values = [getattr(self, field.name) for field in fields(self) if field.name != "layout"]
        return dict(zip(KRONECKER_HYPERNETWORK, values, strict=True))

    def generate(self, embedding: torch.Tensor, feature_scale: float) -> torch.Tensor:
        """θ (…, P) of clients with embeddings v (…, e)."""
        features = hidden_features(self.trunk_weight, self.trunk_bias, embedding, feature_scale)
        return torch.cat(list(self._generated(features)), dim=-1)

    def _generated(self, features: torch.Tensor) -> Iterator[torch.Tensor]:
        start_left = start_right = 0
        for num_left, num_right in self.layout.shapes:
            left = slice(start_left, start_left + num_left)
            right = slice(start_right, start_right + num_right)
            start_left, start_right = left.stop, right.stop
            scaled = self.left[..., left, :] * features.unsqueeze(-2)
            product = scaled @ self.right[..., right, :].transpose(-2, -1)
            bias = self.bias_left[..., left, None] * self.bias_right[..., None, right]
            yield (product + bias).flatten(start_dim=-2)


def closest_factors(size: int) -> tuple[int, int]:
    """The two whole numbers of product ``size``, the smaller first, that are closest to each other.

    They make the fewest numbers of a product: d₁ + d₂.
    """
    smaller = next(one for one in range(math.isqrt(size), 0, -1) if size % one == 0)
    return smaller, size // smaller


def expected_norm_squared(hidden_size: int, feature_scale: float, output_spread: float) -> float:
    """E‖f‖² at the start, but for what relu cuts of it: 4 % with a spread of 1."""
    return hidden_size * feature_scale**2 * (1 + output_spread**2)


def kronecker_parameters(
    tensors: Sequence[TrainableTensor],
    layout: KroneckerLayout,
    *,
    embedding_size: int,
    hidden_size: int,
    feature_scale: float,
    output_spread: float,
    seed: int,
) -> ParameterSpecification:
    """The shared tensors of a hypernetwork that starts at the extractor's own default scale.

    The published code draws embeddings and layers as is usual, so that clients start far apart and
    the largest layer far too small, and the bias as two zeros, whose product no gradient ever
    leaves. Here:

    - f starts as feature_scale·relu(1 + output_spread·z), z ~ N(0, 1): clients start close
      together.
    - R's values have a variance of 1/(feature_scale²·max(h, d₂)), so that a step of L moves θ by
      about η·g in the directions that R spans, as if θ itself were trained; a step of R comes on
      top. L's make θ's variance the target layer's.
    - r starts as 1/√d₂ and l as √d₂ times the tensor's centre, so that their product starts as it.
    """
    # A row of A uniform in ±bound gives A v a variance of e·bound²/3.
    trunk = RowRange(rows=hidden_size, bound=output_spread * math.sqrt(3 / embedding_size))
    norm_squared = expected_norm_squared(hidden_size, feature_scale, output_spread)
    left, right, bias_left, bias_right = [], [], [], []
    for tensor, (num_left, num_right) in zip(tensors, layout.shapes, strict=True):
        spread_right = 1 / (feature_scale * math.sqrt(max(hidden_size, num_right)))
        # θ has a variance of ‖f‖²·Var(L)·Var(R); a uniform ±bound one of bound²/3.
        spread_of_theta = tensor.bound / math.sqrt(3)
        spread_left = spread_of_theta / (math.sqrt(norm_squared) * spread_right)
        left.append(RowRange(rows=num_left, bound=math.sqrt(3) * spread_left))
        right.append(RowRange(rows=num_right, bound=math.sqrt(3) * spread_right))
        bias_left.append(RowRange(rows=num_left, centre=tensor.centre * math.sqrt(num_right)))
        bias_right.append(RowRange(rows=num_right, centre=1 / math.sqrt(num_right)))
    shapes_and_ranges = (
        ((hidden_size, embedding_size), (trunk,)),
        ((hidden_size,), (RowRange(rows=hidden_size, centre=1.0),)),
        ((layout.num_left, hidden_size), tuple(left)),
        ((layout.num_right, hidden_size), tuple(right)),
        ((layout.num_left,), tuple(bias_left)),
        ((layout.num_right,), tuple(bias_right)),
    )
    return ParameterSpecification(
        seed=seed,
        tensors=tuple(
            TensorSpecification(name=name, shape=shape, initialisation=ranges)
            for name, (shape, ranges) in zip(KRONECKER_HYPERNETWORK, shapes_and_ranges, strict=True)
        ),
    )
