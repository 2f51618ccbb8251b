"""How an update writes down the changes of the shared tensors (after − before).

An encoding says which wire tensors stand for the changes, checks a received file against that, and
reads it back. ``dense`` writes each change whole in float32; ``factored`` writes a matrix's change
as a few components in half precision and keeps the rest for the next round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.specification import (
    EncodingName,
    EncodingPlan,
    ParameterSpecification,
    UpdateEncodingName,
)
from shared.tensors.codec import Block, check_finite
from shared.tensors.factored_encoding import (
    Compression,
    Delta,
    check_factored_block,
    check_factored_header,
    decode_factored,
    encode_matrix,
    encode_whole,
    is_matrix,
)
from shared.tensors.file_header import Header, UnexpectedTensorsError
from shared.tensors.low_rank import FactoredDelta


@dataclass(frozen=True, eq=False)
class EncodedUpdate:
    """What is sent of an update, and what is left for the next one.

    Attributes:
        wire: tensors of the file by their names there, in the shapes and dtypes of the encoding.
        residual: by name of the tensor changed: float32 of its shape, or float32 factors of it;
            empty where nothing is left out.
    """

    wire: dict[str, Array]
    residual: dict[str, Delta]


class Encoding(Protocol):
    """One way to write the changes of all shared tensors."""

    name: EncodingName

    def encode(
        self,
        deltas: Mapping[str, Delta],
        residual: Mapping[str, Delta],
        base: NamedArrays,
        parameters: ParameterSpecification,
    ) -> EncodedUpdate:
        """Writes ``deltas`` plus what the last update left out, against weights ``base``.

        Args:
            deltas: by tensor name: float32 of the tensor's shape, or factors of a matrix.
            residual: of the client's last :class:`EncodedUpdate`; names may be missing.
            base: float32 weights by name, which factors with a scale refer to.
            parameters: of the federation.

        Raises:
            ValueError: a delta's name or shape is not the specification's.
        """

    def check_header(self, header: Header, parameters: ParameterSpecification) -> None:
        """Raises UnexpectedTensorsError unless the header declares this encoding's tensors."""

    def check_block(self, block: Block) -> None:
        """Raises CodecError for values that no correct update has."""

    def decode(self, wire: NamedArrays, parameters: ParameterSpecification) -> Mapping[str, Delta]:
        """The changes that wire tensors stand for, after the two checks.

        By tensor name: float32 of the tensor's shape, or float32 factors of a matrix.
        """


class DenseEncoding:
    """Every change as one F32 tensor with the name and shape of the tensor it changes."""

    name: EncodingName = "dense"

    def encode(
        self,
        deltas: Mapping[str, Delta],
        residual: Mapping[str, Delta],
        base: NamedArrays,
        parameters: ParameterSpecification,
    ) -> EncodedUpdate:
        """See :class:`Encoding`. Nothing is left out."""
        wanted = _wanted(deltas, residual, parameters)
        wire = {
            name: np.asarray(_dense(change, base[name]), np.float32)
            for name, change in wanted.items()
        }
        return EncodedUpdate(wire, {})

    def check_header(self, header: Header, parameters: ParameterSpecification) -> None:
        """See :class:`Encoding`."""
        check_tensors(header, {t.name: ("F32", t.shape) for t in parameters.tensors})

    def check_block(self, block: Block) -> None:
        """See :class:`Encoding`."""
        check_finite(block)

    def decode(self, wire: NamedArrays, parameters: ParameterSpecification) -> Mapping[str, Delta]:
        """See :class:`Encoding`."""
        return {tensor.name: wire[tensor.name] for tensor in parameters.tensors}


class FactoredEncoding:
    """Matrices as components, everything else whole, in the wire dtype of the plan."""

    name: EncodingName = "factored"

    def __init__(self, plan: EncodingPlan) -> None:
        self._compression = Compression(plan.wire_dtype, plan.tolerance, plan.max_rank)

    def encode(
        self,
        deltas: Mapping[str, Delta],
        residual: Mapping[str, Delta],
        base: NamedArrays,
        parameters: ParameterSpecification,
    ) -> EncodedUpdate:
        """See :class:`Encoding`. A matrix whose change is not given in factors is sent whole."""
        encoded = EncodedUpdate({}, {})
        for name, change in _wanted(deltas, residual, parameters).items():
            if isinstance(change, FactoredDelta) and is_matrix(parameters.by_name[name]):
                wire, left_out = encode_matrix(name, change, self._compression)
                encoded.residual[name] = left_out
            else:
                whole = np.asarray(_dense(change, base[name]), np.float32)
                wire, rounding = encode_whole(name, whole, self._compression.wire_dtype)
                encoded.residual[name] = rounding
            encoded.wire.update(wire)
        return encoded

    def check_header(self, header: Header, parameters: ParameterSpecification) -> None:
        """See :class:`Encoding`."""
        check_factored_header(header, parameters)

    def check_block(self, block: Block) -> None:
        """See :class:`Encoding`."""
        check_factored_block(block)

    def decode(self, wire: NamedArrays, parameters: ParameterSpecification) -> Mapping[str, Delta]:
        """See :class:`Encoding`."""
        return decode_factored(wire, parameters)


def encoding_for(plan: EncodingPlan, name: UpdateEncodingName | None = None) -> Encoding:
    """The plan's encoding. A sender may also write ``dense``, which every federation takes.

    Raises:
        ValueError: the federation does not take the encoding called ``name``.
    """
    wanted = name or plan.name
    if wanted not in (plan.name, DenseEncoding.name):
        raise ValueError(f"this federation takes {plan.name} and dense, not {wanted}")
    return DenseEncoding() if wanted == DenseEncoding.name else FactoredEncoding(plan)


def _wanted(
    deltas: Mapping[str, Delta],
    residual: Mapping[str, Delta],
    parameters: ParameterSpecification,
) -> dict[str, Delta]:
    """Each delta with what was left out of the last one, checked against the specification."""
    parameters.check_names(deltas)
    wanted: dict[str, Delta] = {}
    for name, delta in deltas.items():
        left_out = residual.get(name)
        wanted[name] = delta if left_out is None else _sum(delta, left_out)
        expected = parameters.by_name[name].shape
        if (found := _shape(delta)) != expected:
            raise ValueError(f"the change of {name} has shape {found}, not {expected}")
    return wanted


def _shape(delta: Delta) -> tuple[int, ...]:
    if isinstance(delta, FactoredDelta):
        return (delta.left.shape[1], delta.right.shape[1])
    return delta.shape


def _sum(delta: Delta, left_out: Delta) -> Delta:
    if isinstance(delta, FactoredDelta) and isinstance(left_out, FactoredDelta):
        return delta.plus(left_out)
    if isinstance(delta, FactoredDelta) or isinstance(left_out, FactoredDelta):
        raise ValueError("a change and what was left out of the last one have different forms")
    total: Array = delta + left_out
    return total


def _dense(change: Delta, base: Array) -> Array:
    return change.dense(base) if isinstance(change, FactoredDelta) else change


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
