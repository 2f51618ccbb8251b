"""The weighted mean of client updates (FedAvg: McMahan et al., AISTATS 2017), one at a time.

The sum runs in float64 over whole updates in a fixed order, so memory does not grow with the number
of clients and the result depends only on the set of updates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shared.arrays import Array, NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.tensors.codec import Block
from shared.tensors.file_header import NonFiniteError


class WeightedMean:
    """Sum of nᵢ·deltaᵢ and of nᵢ, for the tensors of one specification."""

    def __init__(self, parameters: ParameterSpecification) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {
            tensor.name: np.zeros(tensor.num_elements) for tensor in parameters.tensors
        }
        self._shapes = {tensor.name: tensor.shape for tensor in parameters.tensors}
        self._total_examples = 0

    def add_examples(self, num_examples: int) -> None:
        """Counts the examples of the update whose blocks follow."""
        if num_examples <= 0:
            raise ValueError(f"an update of {num_examples} examples has no weight")
        self._total_examples += num_examples

    def add_block(self, weight: float, block: Block) -> None:
        """Adds a run of elements of one dense delta, (count,) of any float dtype.

        ``weight`` is the update's examples, times the factor that clips it if it is clipped.
        """
        end = block.start + len(block.values)
        self._sums[block.tensor.name][block.start : end] += weight * block.values.astype(np.float64)

    def apply_to(self, base: NamedArrays) -> dict[str, Array]:
        """float32(base + mean delta) of every tensor, in its shape; frees each sum as it goes.

        ``base`` are the float32 weights that the round started from.

        Raises:
            ValueError: no examples were counted.
            NonFiniteError: a value exceeds float32.
        """
        if self._total_examples == 0:
            raise ValueError("no update was added")
        weights: dict[str, Array] = {}
        for name, shape in self._shapes.items():
            mean = self._sums.pop(name)
            mean /= self._total_examples
            mean += base[name].reshape(-1)
            with np.errstate(over="ignore"):
                value = mean.astype(np.float32).reshape(shape)
            refuse_overflow(name, value)
            weights[name] = value
        return weights


def refuse_overflow(name: str, value: Array) -> None:
    """Raises NonFiniteError unless every value of a tensor of any shape is finite."""
    if not np.isfinite(value).all():
        raise NonFiniteError(f"the aggregated tensor {name} exceeds float32", tensor=name)
