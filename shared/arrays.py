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


def digest_arrays(arrays: NamedArrays) -> str:
    """``sha256:<hex>`` over names, dtypes, shapes and little-endian bytes, in order of name.

    The digest does not depend on the file format, so weights rebuilt from a seed or from deltas
    can be compared with weights that were downloaded. PROTOCOL.md, section "Digests", is normative.
    """
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        little_endian = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        heading = json.dumps([name, array.dtype.name, list(array.shape)], separators=(",", ":"))
        state.update(heading.encode() + b"\n")
        state.update(little_endian.reshape(-1).view(np.uint8).data)
    return f"sha256:{state.hexdigest()}"


def digest_bytes(content: bytes | bytearray) -> str:
    """``sha256:<hex>`` of raw bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
