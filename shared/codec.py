"""Bytes to named arrays and back: the safetensors format, read as a stream and trusted in nothing.

The reader is ours, since the safetensors library reads whole files only: a coordinator that
receives a thousand updates must check each while it arrives, in memory that does not grow with
the update. It accepts exactly what the library writes (a test compares them) and turns every
other input into a :class:`CodecError` that names what was wrong and where.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from shared.arrays import Array, NamedArrays

MEDIA_TYPE = "application/vnd.safetensors"
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 10_000
LENGTH_BYTES = 8
"""Of the header's length, which precedes it."""
_METADATA_KEY = "__metadata__"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
_DTYPE_NAMES = {dtype.name: name for name, dtype in _DTYPES.items()}
_PIECE_BYTES = 1 << 20
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 1 << 40


class CodecError(ValueError):
    """A body that is refused. ``where`` holds a problem's members, such as tensor and position."""

    def __init__(self, message: str, **where: Any) -> None:
        super().__init__(message)
        self.where = where


class NotSafetensorsError(CodecError):
    """The bytes are not a well-formed safetensors file."""


class UnexpectedTensorsError(CodecError):
    """The file is well formed, but its names, shapes or dtypes are not those asked for."""


class NonFiniteError(CodecError):
    """A tensor holds NaN or infinity."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header declares it; ``start`` and ``end`` are byte offsets in the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return _DTYPES[self.dtype].itemsize

    def elements(self, content: bytes) -> Array:
        """A run of the tensor's elements from their bytes, as one flat array."""
        return np.frombuffer(content, _DTYPES[self.dtype])


@dataclass(frozen=True)
class Header:
    """What a file says of itself: tensors in the order of their bytes, and string metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    @property
    def data_bytes(self) -> int:
        """Length of the data that follows the header."""
        return self.tensors[-1].end if self.tensors else 0


@dataclass(frozen=True)
class Block:
    """A run of consecutive elements of one tensor, from flat index ``start`` on."""

    tensor: TensorInfo
    start: int
    values: Array


def encode(arrays: NamedArrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of ``arrays`` (any dtype the reader knows) and string ``metadata``."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, metadata=dict(metadata) if metadata else None)


def encode_pieces(arrays: NamedArrays) -> Iterator[bytes | memoryview]:
    """The same file as :func:`encode` without metadata, for arrays too large to copy.

    The pieces after the first are views of the arrays, in order of name: do not change the arrays
    before the last piece is used.
    """
    little_endian = {
        name: np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        for name, array in sorted(arrays.items())
    }
    tensors, position = [], 0
    for name, array in little_endian.items():
        end = position + array.nbytes
        dtype = _DTYPE_NAMES[array.dtype.name]
        tensors.append(TensorInfo(name, dtype, array.shape, position, end))
        position = end
    yield encode_header(tensors)
    for array in little_endian.values():
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]


def encode_header(
    tensors: Iterable[TensorInfo], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What a file begins with whose data are those of ``tensors``."""
    document: dict[str, Any] = {_METADATA_KEY: dict(metadata)} if metadata else {}
    for info in tensors:
        document[info.name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.start, info.end],
        }
    header = json.dumps(document, separators=(",", ":")).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)  # the data of a file starts at a multiple of 8
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def decode(content: bytes | bytearray | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and metadata of a whole file. BF16 is the dtype of the package ml_dtypes.

    Arrays are read-only views of ``content`` where possible.

    Raises:
        CodecError: the bytes are no safetensors file, or a value is NaN or infinite.
    """
    reader = StreamReader()
    reader.feed_header_only(content)
    header = reader.header
    if header is None:
        raise NotSafetensorsError("the file ends inside its header", found=len(content))
    data = memoryview(content)[reader.data_offset :]
    if len(data) != header.data_bytes:
        raise NotSafetensorsError(
            "the data's length differs from the header's",
            expected=header.data_bytes,
            found=len(data),
        )
    arrays = {}
    for info in header.tensors:
        values = np.frombuffer(data[info.start : info.end], dtype=_DTYPES[info.dtype])
        check_finite(Block(info, 0, values))
        arrays[info.name] = values.reshape(info.shape)
    return arrays, dict(header.metadata)


def check_finite(block: Block) -> None:
    """Raises :class:`NonFiniteError` naming the first NaN or infinity of a block."""
    info = block.tensor
    finite = np.isfinite(block.values)
    if finite.all():
        return
    first = block.start + int(np.argmin(finite))
    position = [int(i) for i in np.unravel_index(first, info.shape)] if info.shape else []
    value = float(block.values[first - block.start])
    raise NonFiniteError(
        f"tensor {info.name} holds {value} at {position}",
        tensor=info.name,
        position=position,
        found=str(value),
    )


class StreamReader:
    """Reads a safetensors file from pieces of any length, keeping no more than a piece.

    Feed it bytes; each call yields the :class:`Block` values that became complete. ``header`` is
    None until it has been read. Call :meth:`finish` at the end, or a short file goes unnoticed.
    """

    def __init__(self, max_header_bytes: int = MAX_HEADER_BYTES) -> None:
        self.header: Header | None = None
        self.data_offset = 0
        self._max_header_bytes = max_header_bytes
        self._pending = b""
        self._position = 0
        self._tensor_index = 0

    def feed(self, piece: bytes) -> Iterator[Block]:
        """Consumes one piece; raises :class:`CodecError` at the first thing that is wrong."""
        self._pending += piece
        if self.header is None:
            self._read_header()
        if self.header is not None:
            yield from self._read_blocks(self.header)

    def feed_header_only(self, content: bytes | bytearray | memoryview) -> None:
        """Reads the header of a file that is whole in memory, without copying its data."""
        self._pending = bytes(memoryview(content)[: LENGTH_BYTES + self._max_header_bytes])
        self._read_header()
        self._pending = b""

    def finish(self) -> Header:
        """The header, once every byte it promised has come.

        Raises:
            NotSafetensorsError: the file ends early.
        """
        if self.header is None:
            raise NotSafetensorsError("the file ends inside its header", found=len(self._pending))
        received = self._position + len(self._pending)
        if received != self.header.data_bytes:
            raise NotSafetensorsError(
                "the data ends before the header's last tensor",
                expected=self.header.data_bytes,
                found=received,
            )
        return self.header

    def _read_header(self) -> None:
        if len(self._pending) < LENGTH_BYTES:
            return
        length = int.from_bytes(self._pending[:LENGTH_BYTES], "little")
        if length > self._max_header_bytes:
            raise NotSafetensorsError(
                f"the header claims {length} bytes", expected=self._max_header_bytes, found=length
            )
        end = LENGTH_BYTES + length
        if len(self._pending) >= end:
            self.header = _parse_header(self._pending[LENGTH_BYTES:end])
            self.data_offset = end
            self._pending = self._pending[end:]

    def _read_blocks(self, header: Header) -> Iterator[Block]:
        received = self._position + len(self._pending)
        if received > header.data_bytes:
            raise NotSafetensorsError(
                "bytes follow the last tensor", expected=header.data_bytes, found=received
            )
        consumed = 0
        while self._tensor_index < len(header.tensors):
            info = header.tensors[self._tensor_index]
            dtype = _DTYPES[info.dtype]
            available = min(info.end - self._position, len(self._pending) - consumed)
            whole = available - available % dtype.itemsize
            if whole:
                values = np.frombuffer(self._pending, dtype, whole // dtype.itemsize, consumed)
                start = (self._position - info.start) // dtype.itemsize
                self._position += whole
                consumed += whole
                yield Block(info, start, values)
            if self._position < info.end:
                break
            self._tensor_index += 1
        self._pending = self._pending[consumed:]


def _parse_header(text: bytes) -> Header:
    try:
        document = json.loads(
            text.decode(), object_pairs_hook=_check_object, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, CodecError):
            raise
        raise NotSafetensorsError("the header is not JSON") from error
    if not isinstance(document, dict):
        raise NotSafetensorsError("the header is not a JSON object")
    metadata = document.pop(_METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise NotSafetensorsError("the header's metadata is not an object of strings")
    if len(document) > MAX_TENSORS:
        raise NotSafetensorsError(
            f"the file has {len(document)} tensors", expected=MAX_TENSORS, found=len(document)
        )
    tensors = sorted(
        (_parse_tensor(name, entry) for name, entry in document.items()),
        key=lambda info: (info.start, info.end),
    )
    expected_start = 0
    for info in tensors:
        if info.start != expected_start:
            raise NotSafetensorsError(
                f"tensor {info.name} does not start where the one before it ends",
                tensor=info.name,
                expected=expected_start,
                found=info.start,
            )
        expected_start = info.end
    return Header(tuple(tensors), metadata)


def _check_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if not _is_unicode(name) or (isinstance(value, str) and not _is_unicode(value)):
            raise NotSafetensorsError("the header holds text that is not Unicode")
        if name in document:
            raise NotSafetensorsError(f"the header names {name!r} twice", tensor=name)
        document[name] = value
    return document


def _is_unicode(text: str) -> bool:
    """Whether a string has no lone surrogates, which JSON can write and nobody can send on."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(constant: str) -> None:
    raise NotSafetensorsError(f"the header holds {constant}, which is not JSON")


def _parse_tensor(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise NotSafetensorsError(
            f"tensor {name} needs exactly dtype, shape and data_offsets", tensor=name
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise NotSafetensorsError(
            f"tensor {name} has an unknown dtype",
            tensor=name,
            expected=list(_DTYPES),
            found=dtype if isinstance(dtype, str) else type(dtype).__name__,
        )
    if not _is_list_of_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise NotSafetensorsError(f"tensor {name} has a malformed shape", tensor=name)
    if not _is_list_of_counts(offsets) or len(offsets) != 2:
        raise NotSafetensorsError(f"tensor {name} has malformed data_offsets", tensor=name)
    num_elements = 1
    for size in shape:
        num_elements *= size
        if max(size, num_elements) > _MAX_ELEMENTS:
            raise NotSafetensorsError(f"tensor {name} has an absurd shape", tensor=name)
    length = num_elements * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != length:
        raise NotSafetensorsError(
            f"tensor {name} has a shape that does not fill its bytes",
            tensor=name,
            expected=length,
            found=offsets[1] - offsets[0],
        )
    return TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1])


def _is_list_of_counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )
