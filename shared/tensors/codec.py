"""Bytes to named arrays and back: the safetensors format, read as a stream and trusted in nothing.

The reader is ours, since the safetensors library reads whole files only: a coordinator that
receives a thousand updates must check each while it arrives, in memory that does not grow with
the update. It accepts exactly what the library writes (a test compares them) and turns every
other input into a :class:`CodecError` that names what was wrong and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import save

from shared.arrays import Array, NamedArrays
from shared.tensors.file_header import (
    DTYPE_NAMES,
    DTYPES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Header,
    NonFiniteError,
    NotSafetensorsError,
    TensorInfo,
    encode_header,
    parse_header,
)

MEDIA_TYPE = "application/vnd.safetensors"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Block:
    """A run of consecutive elements of one tensor.

    Attributes:
        tensor: whose elements they are.
        start: flat index of the first, in row-major order.
        values: (count,) in the tensor's dtype, read-only.
    """

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
        dtype = DTYPE_NAMES[array.dtype.name]
        tensors.append(TensorInfo(name, dtype, array.shape, position, end))
        position = end
    yield encode_header(tensors)
    for array in little_endian.values():
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]


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
        values = np.frombuffer(data[info.start : info.end], dtype=DTYPES[info.dtype])
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
    None until it has been read; ``on_header`` is called with it before any data is judged. What
    is wrong first in the file is what is raised, however the file is cut into pieces. Call
    :meth:`finish` at the end, or a short file goes unnoticed.
    """

    def __init__(
        self,
        max_header_bytes: int = MAX_HEADER_BYTES,
        on_header: Callable[[Header], None] | None = None,
    ) -> None:
        self.header: Header | None = None
        self.data_offset = 0
        self._on_header = on_header
        self._max_header_bytes = max_header_bytes
        self._pending = b""
        self._position = 0
        self._tensor_index = 0

    def feed(self, piece: bytes) -> Iterator[Block]:
        """Consumes one piece; raises :class:`CodecError` at the first thing that is wrong."""
        self._pending += piece
        if self.header is None:
            self._read_header()
            if self.header is not None and self._on_header is not None:
                self._on_header(self.header)
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
                f"the header claims {length} bytes, which is too many",
                expected=self._max_header_bytes,
                found=length,
            )
        end = LENGTH_BYTES + length
        if len(self._pending) >= end:
            self.header = parse_header(self._pending[LENGTH_BYTES:end])
            self.data_offset = end
            self._pending = self._pending[end:]

    def _read_blocks(self, header: Header) -> Iterator[Block]:
        received = self._position + len(self._pending)
        consumed = 0
        while self._tensor_index < len(header.tensors):
            info = header.tensors[self._tensor_index]
            dtype = DTYPES[info.dtype]
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
        if received > header.data_bytes:
            raise NotSafetensorsError(
                "bytes follow the last tensor", expected=header.data_bytes, found=received
            )
