"""From one version of weights to the next, bit for bit the same on every machine.

The coordinator defines version k+1 as version k plus a published delta in the ``factored``
encoding, applied by the arithmetic below. A worker that holds version k rebuilds k+1 from the delta
and compares the digest. PROTOCOL.md, section "Deltas between versions", is normative.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.tensors.factored_encoding import decode_factored
from shared.tensors.file_header import Header, TensorInfo, UnexpectedTensorsError
from shared.tensors.low_rank import FactoredDelta
from shared.tensors.norms import squared_distance

CHAIN_METADATA_KEY = "hyperfl-deltas"
"""Metadata entry of a file of deltas, which a file of whole weights does not have."""
_VERSION = re.compile(r"[0-9]{1,18}")
_BLOCK_ELEMENTS = 1 << 17
"""Elements updated at a time: a block and its product stay in a core's cache."""


def advance_weights(
    weights: NamedArrays, delta: NamedArrays, parameters: ParameterSpecification
) -> float:
    """Makes the next version's weights of this version's, in place; returns ‖after − before‖.

    ``weights`` are float32 in the specification's shapes; ``delta`` has the wire tensors of a
    published delta, in the factored encoding.

    Every operation is one float32 multiplication or addition of one element, in a fixed order. A
    matrix product would be faster, but libraries sum it in orders of their own. Values beyond
    float32 become infinite: the digest tells a worker, and a coordinator looks before it publishes.
    The norm that is returned is over all tensors, in float64, of the values as they are afterwards.
    """
    changes = decode_factored(delta, parameters)
    squared = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for tensor in parameters.tensors:
            change = changes[tensor.name]
            if isinstance(change, FactoredDelta):
                squared += _add_components(weights[tensor.name], change)
            else:
                squared += _add_whole(weights[tensor.name], change)
    return math.sqrt(squared)


def _add_whole(value: Array, change: Array) -> float:
    squared = 0.0
    rows_at_a_time = _rows_at_a_time(value)
    for start in range(0, len(value), rows_at_a_time):
        block = value[start : start + rows_at_a_time]
        before = block.copy()
        np.add(block, change[start : start + rows_at_a_time], out=block)
        squared += squared_distance(block, before)
    return squared


def _rows_at_a_time(value: Array) -> int:
    return max(1, _BLOCK_ELEMENTS * len(value) // value.size)


def _add_components(value: Array, change: FactoredDelta) -> float:
    grown = np.float32(1.0) + np.float32(change.scale)
    rows_at_a_time = _rows_at_a_time(value)
    product = np.empty((rows_at_a_time, value.shape[1]), np.float32)
    squared = 0.0
    for start in range(0, len(value), rows_at_a_time):
        block = value[start : start + rows_at_a_time]
        before = block.copy()
        np.multiply(block, grown, out=block)
        for left, right in zip(change.left, change.right, strict=True):
            column = left[start : start + rows_at_a_time, None]
            np.multiply(column, right, out=product[: len(block)])
            np.add(block, product[: len(block)], out=block)
        squared += squared_distance(block, before)
    return squared


def join_tensors(deltas: Mapping[int, Header]) -> Iterator[TensorInfo]:
    """The tensors of a file in which the data of several deltas' files follow each other.

    A delta is given by the version that it leads to, which is prefixed to its tensors' names.
    """
    position = 0
    for version, header in deltas.items():
        for info in header.tensors:
            yield replace(
                info,
                name=f"{version}:{info.name}",
                start=position + info.start,
                end=position + info.end,
            )
        position += header.data_bytes


def split_chain(arrays: NamedArrays) -> dict[int, dict[str, Array]]:
    """The deltas of a chain by the version each leads to, in order: wire tensors by name.

    Raises:
        UnexpectedTensorsError: a name without a version.
    """
    chain: dict[int, dict[str, Array]] = {}
    for full_name, array in arrays.items():
        version, separator, name = full_name.partition(":")
        if not separator or not _VERSION.fullmatch(version):
            raise UnexpectedTensorsError(f"tensor {full_name} names no version", tensor=full_name)
        chain.setdefault(int(version), {})[name] = array
    return dict(sorted(chain.items()))
