"""The header of a safetensors file: written, and read as something to be trusted in nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from shared.arrays import Array

MAX_HEADER_BYTES = 1 << 20


MAX_TENSORS = 10_000
_MAX_LISTS = 3 * MAX_TENSORS + 1000
"""A tensor has three: itself, its shape and its place. The rest is for texts in the metadata."""


LENGTH_BYTES = 8
"""Of the header's length, which precedes it."""


METADATA_KEY = "__metadata__"


DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}


DTYPE_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}


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
    """One tensor as the header declares it.

    Attributes:
        name: its name in the file.
        dtype: as safetensors calls it: ``F32``, ``BF16``, ``I64`` …
        shape: () for a scalar.
        start: byte offset of its first element in the data, which follow the header.
        end: byte offset behind its last.
    """

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
        return DTYPES[self.dtype].itemsize

    def elements(self, content: bytes) -> Array:
        """A run of the tensor's elements from their bytes: (count,) in its dtype, read-only."""
        return np.frombuffer(content, DTYPES[self.dtype])


@dataclass(frozen=True)
class Header:
    """What a file says of itself: tensors in the order of their bytes, and string metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    @property
    def data_bytes(self) -> int:
        """Length of the data that follows the header."""
        return self.tensors[-1].end if self.tensors else 0


def encode_header(
    tensors: Iterable[TensorInfo], metadata: Mapping[str, str] | None = None
) -> bytes:
    """What a file begins with whose data are those of ``tensors``."""
    document: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    for info in tensors:
        document[info.name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.start, info.end],
        }
    header = json.dumps(document, separators=(",", ":")).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)  # the data of a file starts at a multiple of 8
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def parse_header(text: bytes) -> Header:
    """The header whose JSON is ``text``.

    Raises:
        NotSafetensorsError: it is not what the safetensors library writes; says what and where.
    """
    lists = text.count(b"[") + text.count(b"{")
    if lists > _MAX_LISTS:
        raise NotSafetensorsError(
            f"the header holds {lists} lists and objects, which is too many",
            expected=_MAX_LISTS,
            found=lists,
        )
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
    metadata = document.pop(METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise NotSafetensorsError("the header's metadata is not an object of strings")
    if len(document) > MAX_TENSORS:
        raise NotSafetensorsError(
            f"the file has {len(document)} tensors, which is too many",
            expected=MAX_TENSORS,
            found=len(document),
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
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise NotSafetensorsError(
            f"tensor {name} has an unknown dtype",
            tensor=name,
            expected=list(DTYPES),
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
            raise NotSafetensorsError(f"tensor {name} has too many elements", tensor=name)
    length = num_elements * DTYPES[dtype].itemsize
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
