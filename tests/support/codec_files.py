"""Files of tensors for tests of the codec, and both ways to read them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from safetensors import deserialize

from shared.arrays import Array
from shared.tensors.codec import Block, StreamReader

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def file_of(header: Any, data: bytes = b"") -> bytes:
    """A file with any header: an object to be written as JSON, or raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets} | more


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def read_by_library(content: bytes) -> dict[str, Array]:
    """The library's own parser; its numpy front end does not read BF16."""
    return {
        name: np.frombuffer(info["data"], DTYPES[info["dtype"]]).reshape(info["shape"])
        for name, info in deserialize(content)
    }


def stream(content: bytes, cuts: Iterable[int]) -> tuple[StreamReader, list[Block]]:
    reader = StreamReader()
    blocks = []
    for start, end in pairwise([0, *sorted(cuts), len(content)]):
        blocks += reader.feed(content[start:end])
    return reader, blocks
