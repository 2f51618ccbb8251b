"""A client's change of all shared tensors as one vector, and back."""

from __future__ import annotations

import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.tensors.low_rank import FactoredDelta, Float64
from worker.methods.interface import TrainingResult


def flat_change(
    result: TrainingResult, weights: NamedArrays, parameters: ParameterSpecification
) -> Float64:
    """The change (m,) of all shared tensors, one after the other; ``weights`` are those before."""
    parts = [np.zeros(0)]
    for tensor in parameters.tensors:
        change = result.deltas[tensor.name]
        if isinstance(change, FactoredDelta):
            change = change.dense(weights[tensor.name])
        parts.append(change.astype(np.float64).reshape(-1))
    return np.concatenate(parts)


def split(values: Float64, parameters: ParameterSpecification) -> dict[str, Array]:
    """Values (m,) as the shared tensors, float32 by name."""
    arrays: dict[str, Array] = {}
    start = 0
    for tensor in parameters.tensors:
        part = values[start : start + tensor.num_elements]
        start += tensor.num_elements
        arrays[tensor.name] = part.astype(np.float32).reshape(tensor.shape)
    return arrays


def clipped(change: Float64, largest: float) -> Float64:
    """The change (m,), shortened to a norm of ``largest`` if it is longer."""
    norm = float(np.linalg.norm(change))
    shorter: Float64 = change * (largest / norm) if norm > largest else change
    return shorter
