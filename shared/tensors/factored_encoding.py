"""The ``factored`` encoding: changes of matrices as few components, in half precision.

PROTOCOL.md, section "Encoding factored", is normative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from shared.arrays import Array, NamedArrays
from shared.federation.initialisation import TensorSpecification
from shared.federation.specification import ParameterSpecification, WireDtype
from shared.tensors.codec import Block, check_finite
from shared.tensors.file_header import CodecError, Header, UnexpectedTensorsError
from shared.tensors.low_rank import Components, FactoredDelta, Float32, decompose, rank_for

Delta = Array | FactoredDelta
"""The change of one tensor."""

LEFT, RIGHT, BASE_SCALE, SCALE = "/left", "/right", "/base_scale", "/scale"
MAX_RESIDUAL_RANK = 32
"""Components kept for later beyond those sent; the number bounds a worker's private state."""
_NUMPY_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_WIRE_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Compression:
    """How much of a change is sent at once; the rest follows in later rounds.

    Attributes:
        wire_dtype: of ``left`` and of what is sent whole; ``right`` is always float32.
        tolerance: relative Frobenius error that may be left for later.
        max_rank: most components of a matrix.
    """

    wire_dtype: WireDtype
    tolerance: float
    max_rank: int


def is_matrix(tensor: TensorSpecification) -> bool:
    """Whether a tensor's change may be factored."""
    return len(tensor.shape) == 2


def encode_matrix(
    name: str, wanted: FactoredDelta, compression: Compression
) -> tuple[dict[str, Array], FactoredDelta]:
    """Wire tensors of a matrix's change, and what they leave out.

    Args:
        name: the matrix's.
        wanted: the change of the matrix (rows, columns), as float32 factors of any rank.
        compression: how much of it is sent.

    Returns:
        ``name.left`` (rank, rows) in the wire dtype, ``name.right`` (rank, columns) float32 and
        ``name.base_scale`` () float32; and the rest as factors of at most the rank sent plus
        :data:`MAX_RESIDUAL_RANK`, with scale 0.
    """
    components = decompose(wanted.left, wanted.right)
    rank = rank_for(components.singular_values, compression.tolerance, compression.max_rank)
    sent, rest = components.split(rank)
    wire, received = encode_components(name, wanted.scale, sent, compression.wire_dtype)
    # `received` and `sent` have the same directions, up to the factor that moved to the right.
    sizes = np.linalg.norm(received.right.astype(np.float64), axis=1, keepdims=True)
    rounding = FactoredDelta(0.0, sent.left - received.left * sizes.astype(np.float32), sent.right)
    return wire, rounding.plus(rest.split(MAX_RESIDUAL_RANK)[0].as_delta())


def encode_components(
    name: str, base_scale: float, components: Components, wire_dtype: WireDtype
) -> tuple[dict[str, Array], FactoredDelta]:
    """Wire tensors of some components, and the change that a receiver reads from them.

    Each row of the wire's ``left`` is divided by its largest magnitude, which ``right`` takes over:
    half precision is spent on the shape of a component and never on its size.

    Args:
        name: the matrix's.
        base_scale: c of the change c·W + leftᵀ·right.
        components: ``left`` (rank, rows) and ``right`` (rank, columns), float32.
        wire_dtype: of the wire's ``left``.

    Returns:
        the three wire tensors as :func:`encode_matrix` has them; and the change (rows, columns)
        that they stand for, as float32 factors.
    """
    left, sizes = _normalised(components.left, wire_dtype)
    right = components.right * sizes[:, None]
    wire = {
        name + LEFT: left,
        name + RIGHT: right,
        name + BASE_SCALE: np.array(base_scale, np.float32),
    }
    return wire, FactoredDelta(base_scale, left.astype(np.float32), right)


def encode_whole(name: str, wanted: Array, wire_dtype: WireDtype) -> tuple[dict[str, Array], Array]:
    """Wire tensors of a change that is sent whole, and what rounding leaves out.

    Args:
        name: the tensor's.
        wanted: the change, of the tensor's shape and any float dtype.
        wire_dtype: of what is sent.

    Returns:
        ``name`` in the tensor's shape and the wire dtype, magnitudes at most 1, and ``name.scale``
        () float32; and ``wanted`` minus what they stand for, in ``wanted``'s shape and dtype.
    """
    flat, scale = _normalised(wanted.reshape(1, -1).astype(np.float32), wire_dtype)
    wire = flat.reshape(wanted.shape)
    received = wire.astype(np.float32) * scale[0]
    return {name: wire, name + SCALE: scale[0].reshape(())}, wanted - received


def scale_wire(wire: NamedArrays, factor: float) -> dict[str, Array]:
    """Wire tensors of ``factor`` times the change that ``wire`` stands for, in the same dtypes.

    ``left`` and what is sent whole stay as they are: ``right`` and the scales take the factor.
    """
    return {
        name: np.multiply(array, factor, dtype=np.float64).astype(np.float32)
        if name.endswith((RIGHT, BASE_SCALE, SCALE))
        else array
        for name, array in wire.items()
    }


def _normalised(rows: Float32, wire_dtype: WireDtype) -> tuple[Array, Float32]:
    """Rows divided by their largest magnitude (1 where a row is zero), and those magnitudes."""
    magnitudes: Float32 = np.abs(rows).max(axis=1, initial=np.float32(0.0))
    magnitudes[magnitudes == 0.0] = 1.0
    return (rows / magnitudes[:, None]).astype(_NUMPY_DTYPES[wire_dtype]), magnitudes


def check_factored_header(header: Header, parameters: ParameterSpecification) -> None:
    """Raises UnexpectedTensorsError unless every shared tensor is there in exactly one form."""
    found = {info.name: info for info in header.tensors}
    for tensor in parameters.tensors:
        factored = is_matrix(tensor) and tensor.name not in found
        expected = _factored_shapes(tensor, header) if factored else _whole_shapes(tensor)
        for name, (dtypes, shape) in expected.items():
            info = found.pop(name, None)
            if info is None:
                raise UnexpectedTensorsError(f"tensor {name} is missing", tensor=name)
            if info.dtype not in dtypes or info.shape != shape:
                raise UnexpectedTensorsError(
                    f"tensor {name} is {info.dtype} {list(info.shape)}, "
                    f"not {' or '.join(dtypes)} {list(shape)}",
                    tensor=name,
                    expected={"dtype": list(dtypes), "shape": list(shape)},
                    found={"dtype": info.dtype, "shape": list(info.shape)},
                )
    if found:
        name = min(found)
        raise UnexpectedTensorsError(f"tensor {name} is not shared by this federation", tensor=name)


_Shapes = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]


def _whole_shapes(tensor: TensorSpecification) -> _Shapes:
    return {
        tensor.name: (_WIRE_DTYPES, tensor.shape),
        tensor.name + SCALE: (("F32",), ()),
    }


def _factored_shapes(tensor: TensorSpecification, header: Header) -> _Shapes:
    rows, columns = tensor.shape
    left = next((info for info in header.tensors if info.name == tensor.name + LEFT), None)
    rank = left.shape[0] if left is not None and left.shape else 0
    if rank > min(rows, columns):
        raise UnexpectedTensorsError(
            f"tensor {tensor.name + LEFT} has {rank} components, which is too many",
            tensor=tensor.name + LEFT,
            expected=min(rows, columns),
            found=rank,
        )
    return {
        tensor.name + LEFT: (_WIRE_DTYPES, (rank, rows)),
        tensor.name + RIGHT: (("F32",), (rank, columns)),
        tensor.name + BASE_SCALE: (("F32",), ()),
    }


def check_factored_block(block: Block) -> None:
    """Raises CodecError for a value that is not finite, or a scale of the base beyond [-1, 1]."""
    check_finite(block)
    name = block.tensor.name
    if name.endswith(BASE_SCALE) and abs(float(block.values[0])) > 1.0:
        raise CodecError(
            f"tensor {name} is {float(block.values[0])}, not between -1 and 1",
            tensor=name,
            position=[],
            expected=[-1, 1],
            found=float(block.values[0]),
        )


def decode_factored(arrays: NamedArrays, parameters: ParameterSpecification) -> dict[str, Delta]:
    """The changes that checked wire tensors stand for, by tensor name.

    Each is a float32 array of the tensor's shape, or float32 factors of a matrix that was sent as
    components. ``arrays`` has passed :func:`check_factored_header` and
    :func:`check_factored_block`.
    """
    return {
        tensor.name: (
            _read_whole(arrays, tensor.name)
            if tensor.name in arrays
            else _read_matrix(arrays, tensor.name)
        )
        for tensor in parameters.tensors
    }


def _read_whole(arrays: Mapping[str, Array], name: str) -> Array:
    change: Array = arrays[name].astype(np.float32) * arrays[name + SCALE]
    return change


def _read_matrix(arrays: Mapping[str, Array], name: str) -> FactoredDelta:
    return FactoredDelta(
        float(arrays[name + BASE_SCALE]),
        arrays[name + LEFT].astype(np.float32),
        arrays[name + RIGHT],
    )
