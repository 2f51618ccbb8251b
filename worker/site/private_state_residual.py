"""What an update left out of its changes, as arrays of the private state's file."""

from __future__ import annotations

from collections.abc import Mapping

from shared.arrays import Array, NamedArrays
from shared.tensors.factored_encoding import Delta
from shared.tensors.low_rank import FactoredDelta

_LEFT, _RIGHT = "/left", "/right"


def pack_residual(residual: Mapping[str, Delta]) -> dict[str, Array]:
    """Arrays by name: one for a dense change, two for the factors of a matrix's."""
    arrays: dict[str, Array] = {}
    for name, delta in residual.items():
        if isinstance(delta, FactoredDelta):
            arrays[name + _LEFT] = delta.left
            arrays[name + _RIGHT] = delta.right
        else:
            arrays[name] = delta
    return arrays


def unpack_residual(arrays: NamedArrays) -> dict[str, Delta]:
    """What :func:`pack_residual` made these arrays of."""
    residual: dict[str, Delta] = {}
    for name, array in arrays.items():
        if name.endswith(_LEFT):
            matrix = name.removesuffix(_LEFT)
            residual[matrix] = FactoredDelta(0.0, array, arrays[matrix + _RIGHT])
        elif not name.endswith(_RIGHT):
            residual[name] = array
    return residual
