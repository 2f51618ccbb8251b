"""The torch side of a hypernetwork's specification: layout of θ, hidden features, θ = W f + b.

A hypernetwork turns a client's embedding v (e,) into the parameters θ (P,) of that client's feature
extractor: f = feature_scale · relu(A v + a), θ = W f + b (arXiv 2412.07187, section 3; one matrix W
stands for the paper's one linear layer per generated tensor, which is the same function).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shared.arrays import Array, NamedArrays
from shared.federation.initialisation import RowRange, TensorSpecification
from shared.federation.sharing import HYPERNETWORK, OUTPUT_BIAS
from shared.federation.specification import ParameterSpecification
from worker.models.layout import TrainableTensor

TRUNK_WEIGHT, TRUNK_BIAS, OUTPUT_WEIGHT, _ = HYPERNETWORK


@dataclass(frozen=True, eq=False)
class HypernetworkWeights:
    """φ: trunk weight A (h, e), trunk bias a (h,), output weight W (P, h), output bias b (P,)."""

    trunk_weight: torch.Tensor
    trunk_bias: torch.Tensor
    output_weight: torch.Tensor
    output_bias: torch.Tensor

    @classmethod
    def from_arrays(
        cls, arrays: NamedArrays, parameters: ParameterSpecification, device: torch.device
    ) -> HypernetworkWeights:
        """The weights in ``arrays``, copied to ``device`` with their dtype.

        Raises:
            ValueError: a name or a shape is not the specification's.
        """
        return cls(*shared_tensors(arrays, parameters, HYPERNETWORK, device))

    def generate(self, embedding: torch.Tensor, feature_scale: float) -> torch.Tensor:
        """θ (P,) of one client with embedding v (e,)."""
        features = hidden_features(self.trunk_weight, self.trunk_bias, embedding, feature_scale)
        return torch.addmv(self.output_bias, self.output_weight, features)


def shared_tensors(
    arrays: NamedArrays,
    parameters: ParameterSpecification,
    names: Sequence[str],
    device: torch.device,
) -> list[torch.Tensor]:
    """The arrays of these names, copied to ``device`` with their dtype.

    Raises:
        ValueError: a name or a shape is not the specification's.
    """
    parameters.check_names(arrays)
    for name, array in arrays.items():
        expected = parameters.by_name[name].shape
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, not {expected}")
    # torch.tensor copies: weights decoded from a file are read-only.
    return [torch.tensor(arrays[name], device=device) for name in names]


def hidden_features(
    trunk_weight: torch.Tensor,
    trunk_bias: torch.Tensor,
    embedding: torch.Tensor,
    feature_scale: float,
) -> torch.Tensor:
    """Features f = feature_scale · relu(A v + a), (…, h), of A (…, h, e), a (…, h) and v (…, e)."""
    hidden = (trunk_weight @ embedding.unsqueeze(-1)).squeeze(-1) + trunk_bias
    return feature_scale * hidden.relu()


def hypernetwork_parameters(
    tensors: Sequence[TrainableTensor],
    *,
    embedding_size: int,
    hidden_size: int,
    feature_scale: float,
    output_spread: float,
    seed: int,
) -> ParameterSpecification:
    """The shared tensors of a hypernetwork that starts at the extractor's own default scale.

    b starts as the extractor would without a hypernetwork, and W f adds a part that depends on the
    client, ``output_spread`` times as large (after Chang et al., "Principled Weight Initialization
    for Hypernetworks", ICLR 2020). The trunk starts as a linear layer does by default.
    """
    trunk = RowRange(rows=hidden_size, bound=1 / math.sqrt(embedding_size))
    # A row of W uniform in ±ω gives W f a variance of ω²‖f‖²/3, and θ's own range gives bound²/3.
    relative_bound = output_spread / math.sqrt(
        expected_norm_squared(embedding_size, hidden_size, feature_scale)
    )
    num_parameters = sum(tensor.num_elements for tensor in tensors)
    return ParameterSpecification(
        seed=seed,
        tensors=(
            TensorSpecification(
                name=TRUNK_WEIGHT, shape=(hidden_size, embedding_size), initialisation=(trunk,)
            ),
            TensorSpecification(name=TRUNK_BIAS, shape=(hidden_size,), initialisation=(trunk,)),
            TensorSpecification(
                name=OUTPUT_WEIGHT,
                shape=(num_parameters, hidden_size),
                initialisation=tuple(
                    RowRange(rows=tensor.num_elements, bound=relative_bound * tensor.bound)
                    for tensor in tensors
                ),
            ),
            TensorSpecification(
                name=OUTPUT_BIAS,
                shape=(num_parameters,),
                initialisation=tuple(
                    RowRange(rows=tensor.num_elements, centre=tensor.centre, bound=tensor.bound)
                    for tensor in tensors
                ),
            ),
        ),
    )


def only_output_bias(parameters: ParameterSpecification) -> ParameterSpecification:
    """A hypernetwork's specification of which b alone is shared."""
    return ParameterSpecification(seed=parameters.seed, tensors=(parameters.by_name[OUTPUT_BIAS],))


def all_but_output_bias(parameters: ParameterSpecification) -> dict[str, Array]:
    """The first values of A, a and W, float32 by name: what everybody draws from the seed."""
    return {
        name: tensor.initial_value(parameters.seed)
        for name, tensor in parameters.by_name.items()
        if name != OUTPUT_BIAS
    }


def expected_norm_squared(embedding_size: int, hidden_size: int, feature_scale: float) -> float:
    """E‖f‖² at the start, for an embedding drawn from N(0, I).

    A v + a has variance (e + 1)/(3e) in each of h places, and relu keeps half of the square.
    """
    variance = (embedding_size + 1) / (3 * embedding_size)
    return feature_scale**2 * hidden_size * variance / 2
