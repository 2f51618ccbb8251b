"""How a change of the shared tensors is written down: the deltas (after − before) of an update.

An encoding says which wire tensors stand for the change of a specification's tensors, and checks a
received header against them. ``dense`` writes each change whole. The factored form that training
produces, ``scale·base + leftᵀ·right``, is made dense here until it has a wire form of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.arrays import Array, NamedArrays
from shared.codec import Header, UnexpectedTensorsError
from shared.specification import EncodingName, ParameterSpecification


@dataclass(frozen=True)
class FactoredDelta:
    """A change ``scale·base + leftᵀ·right`` of a matrix ``base`` (rows, columns), all float32.

    ``left`` is (rank, rows) and ``right`` (rank, columns).
    """

    scale: float
    left: npt.NDArray[np.float32]
    right: npt.NDArray[np.float32]

    def dense(self, base: Array) -> Array:
        """The same change as one float32 matrix."""
        change: Array = self.left.T @ self.right
        change += np.float32(self.scale) * base
        return change


Delta = Array | FactoredDelta
"""The change of one tensor."""


class Encoding(Protocol):
    """One way to write the changes of all shared tensors."""

    name: EncodingName

    def encode(
        self, deltas: Mapping[str, Delta], base: NamedArrays, parameters: ParameterSpecification
    ) -> dict[str, Array]:
        """The wire tensors of ``deltas`` against weights ``base``.

        Raises:
            ValueError: a delta's name or shape is not the specification's.
        """

    def check_header(self, header: Header, parameters: ParameterSpecification) -> None:
        """Raises UnexpectedTensorsError unless the header declares this encoding's tensors."""


class DenseEncoding:
    """Every change as one F32 tensor with the name and shape of the tensor it changes."""

    name: EncodingName = "dense"

    def encode(
        self, deltas: Mapping[str, Delta], base: NamedArrays, parameters: ParameterSpecification
    ) -> dict[str, Array]:
        """See :class:`Encoding`."""
        parameters.check_names(deltas)
        arrays = {}
        for name, delta in deltas.items():
            change = delta.dense(base[name]) if isinstance(delta, FactoredDelta) else delta
            expected = parameters.by_name[name].shape
            if change.shape != expected:
                raise ValueError(f"the change of {name} has shape {change.shape}, not {expected}")
            arrays[name] = change.astype(np.float32, copy=False)
        return arrays

    def check_header(self, header: Header, parameters: ParameterSpecification) -> None:
        """See :class:`Encoding`."""
        check_tensors(header, {t.name: ("F32", t.shape) for t in parameters.tensors})


def check_tensors(header: Header, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises UnexpectedTensorsError at the first difference from ``expected`` (dtype, shape)."""
    for info in header.tensors:
        if info.name not in expected:
            raise UnexpectedTensorsError(
                f"tensor {info.name} is not shared by this federation",
                tensor=info.name,
                expected=sorted(expected),
            )
        dtype, shape = expected[info.name]
        if (info.dtype, info.shape) != (dtype, shape):
            raise UnexpectedTensorsError(
                f"tensor {info.name} is {info.dtype} {list(info.shape)}, not {dtype} {list(shape)}",
                tensor=info.name,
                expected={"dtype": dtype, "shape": list(shape)},
                found={"dtype": info.dtype, "shape": list(info.shape)},
            )
    missing = sorted(expected.keys() - {info.name for info in header.tensors})
    if missing:
        raise UnexpectedTensorsError(f"tensor {missing[0]} is missing", tensor=missing[0])


ENCODINGS: Mapping[EncodingName, Encoding] = {"dense": DenseEncoding()}
