"""Names for the numpy arrays that travel, and the digest that identifies a set of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NamedArrays = Mapping[str, Array]


class Digest:
    """The SHA-256 of bytes that come in pieces; ``str`` gives ``sha256:<hex>`` of those so far."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes."""
        self._state.update(piece)

    def __str__(self) -> str:
        return f"sha256:{self._state.hexdigest()}"


def digest_arrays(arrays: NamedArrays) -> str:
    """``sha256:<hex>`` over names, dtypes, shapes and little-endian bytes, in order of name.

    The digest does not depend on the file format, so weights rebuilt from a seed or from deltas
    can be compared with weights that were downloaded. PROTOCOL.md, section "Digests", is normative.
    """
    digest = Digest()
    for name in sorted(arrays):
        array = arrays[name]
        little_endian = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        heading = json.dumps([name, array.dtype.name, list(array.shape)], separators=(",", ":"))
        digest.update(heading.encode() + b"\n")
        digest.update(little_endian.reshape(-1).view(np.uint8).data)
    return str(digest)


def digest_bytes(content: bytes | bytearray) -> str:
    """``sha256:<hex>`` of raw bytes."""
    digest = Digest()
    digest.update(content)
    return str(digest)
