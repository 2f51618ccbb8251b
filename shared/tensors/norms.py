"""Frobenius norms in float64, and how large a change can be whatever cancels within it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.initialisation import TensorSpecification
from shared.federation.specification import ParameterSpecification
from shared.tensors.codec import Block
from shared.tensors.factored_encoding import BASE_SCALE, LEFT, RIGHT, SCALE
from shared.tensors.low_rank import Float64

_ELEMENTS_AT_A_TIME = 1 << 20


def squared_norm(array: Array) -> float:
    """Σ x² in float64 over an array of any shape and float dtype, without a copy of all of it."""
    return math.fsum(float(np.square(one.astype(np.float64)).sum()) for one in _pieces(array))


def squared_distance(one: Array, other: Array) -> float:
    """Σ (x − y)² in float64 over two arrays of one shape and any float dtype."""
    return math.fsum(
        float(np.square(np.subtract(left, right, dtype=np.float64)).sum())
        for left, right in zip(_pieces(one), _pieces(other), strict=True)
    )


def norm_of(arrays: NamedArrays) -> float:
    """√(Σ x²) over every element of all arrays, of any shape and float dtype."""
    return math.sqrt(math.fsum(squared_norm(array) for array in arrays.values()))


def _pieces(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _ELEMENTS_AT_A_TIME):
        yield flat[start : start + _ELEMENTS_AT_A_TIME]


class SquaredNorms:
    """Σ x² of the tensors of a file, gathered as their blocks come.

    Of ``left`` and ``right`` factors it has one number a component, of all else one a tensor.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Float64] = {}

    def add(self, block: Block) -> None:
        """Adds the elements of a block; blocks may come in any order."""
        info = block.tensor
        is_factor = info.name.endswith((LEFT, RIGHT)) and len(info.shape) == 2
        count = info.shape[0] if is_factor else 1
        length = info.num_elements // count
        sums = self._sums.setdefault(info.name, np.zeros(count))
        first = block.start // length
        last = (block.start + len(block.values) - 1) // length
        starts = [0, *(np.arange(first + 1, last + 1) * length - block.start)]
        squares = np.square(block.values.astype(np.float64))
        sums[first : last + 1] += np.add.reduceat(squares, starts)

    def norms(self) -> dict[str, float]:
        """The norm of each tensor, of a file that has no factors."""
        return {name: math.sqrt(float(sums[0])) for name, sums in self._sums.items()}

    def bound(self, parameters: ParameterSpecification, base_norms: Mapping[str, float]) -> float:
        """A number that the norm of an update's change does not exceed, in whatever precision.

        Per tensor it is |base_scale|·‖W‖ + Σₖ ‖leftₖ‖·‖rightₖ‖, or |scale|·‖tensor‖: components
        that cancel each other, or W's part, count in full.

        Args:
            parameters: of the federation; the file has passed its encoding's checks.
            base_norms: ‖W‖ by tensor name, of the weights that the change refers to; of a dense one
                nothing is looked up.
        """
        return math.hypot(*(self._bound(one, base_norms) for one in parameters.tensors))

    def _bound(self, tensor: TensorSpecification, base_norms: Mapping[str, float]) -> float:
        name = tensor.name
        if name in self._sums:
            return self._norm(name) * (
                self._norm(name + SCALE) if name + SCALE in self._sums else 1
            )
        bound = self._norm(name + BASE_SCALE) * base_norms[name]
        if name + LEFT in self._sums:
            bound += float(np.sqrt(self._sums[name + LEFT] * self._sums[name + RIGHT]).sum())
        return bound

    def _norm(self, name: str) -> float:
        return math.sqrt(float(self._sums[name][0]))
