"""The safetensors reader: what the library writes is read, and everything else has an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from safetensors import deserialize
from safetensors import numpy as library

from shared.arrays import Array
from shared.tensors import codec
from shared.tensors.codec import Block, check_finite
from shared.tensors.file_header import NonFiniteError, TensorInfo
from tests.support.codec_files import (
    BFLOAT16,
    DTYPES,
    TEXT,
    assert_same,
    entry,
    file_of,
    read_by_library,
    stream,
)

NAMES = TEXT.filter(lambda name: name != "__metadata__")
SHAPES = numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def finite_arrays(draw: st.DrawFn) -> Array:
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(SHAPES)
    if dtype.kind in "iu":
        return draw(numpy_strategies.arrays(dtype, shape))
    if dtype == BFLOAT16:
        words = draw(numpy_strategies.arrays(np.uint16, shape))
        return np.where(words & 0x7F80 == 0x7F80, words & 0x7F, words).view(dtype)
    numbers = st.floats(width=8 * dtype.itemsize, allow_nan=False, allow_infinity=False)
    return draw(numpy_strategies.arrays(dtype, shape, elements=numbers))


ARRAYS = st.dictionaries(NAMES, finite_arrays(), max_size=4)
METADATA = st.dictionaries(TEXT, TEXT, max_size=3)


@settings(max_examples=60, deadline=None)
@given(arrays=ARRAYS, metadata=METADATA)
def test_what_the_library_writes_is_read(
    arrays: dict[str, Array], metadata: dict[str, str]
) -> None:
    found, found_metadata = codec.decode(library.save(arrays, metadata or None))
    assert_same(found, arrays)
    assert found_metadata == metadata


@settings(max_examples=60, deadline=None)
@given(arrays=ARRAYS, metadata=METADATA)
def test_what_is_written_the_library_reads(
    arrays: dict[str, Array], metadata: dict[str, str]
) -> None:
    content = codec.encode(arrays, metadata)
    assert_same(read_by_library(content), arrays)
    assert codec.decode(content)[1] == metadata


@settings(max_examples=60, deadline=None)
@given(arrays=ARRAYS, spaces=st.integers(0, 9), data=st.data())
def test_the_order_of_tensors_in_a_file_does_not_matter(
    arrays: dict[str, Array], spaces: int, data: st.DataObject
) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    body = b""
    entries = {}
    for name in data.draw(st.permutations(list(arrays))):
        array = arrays[name]
        end = len(body) + array.nbytes
        entries[name] = entry(names[array.dtype], array.shape, (len(body), end))
        body += array.tobytes()
    header = {name: entries[name] for name in data.draw(st.permutations(list(arrays)))}
    content = file_of(json.dumps(header).encode() + b" " * spaces, body)
    assert_same(codec.decode(content)[0], arrays)
    assert_same(read_by_library(content), arrays)


@settings(max_examples=80, deadline=None)
@given(arrays=ARRAYS, metadata=METADATA, data=st.data())
def test_a_file_in_any_pieces_is_the_file_as_a_whole(
    arrays: dict[str, Array], metadata: dict[str, str], data: st.DataObject
) -> None:
    content = codec.encode(arrays, metadata)
    reader, blocks = stream(content, data.draw(st.lists(st.integers(0, len(content)))))
    header = reader.finish()
    assert header.metadata == metadata
    assert {info.name: info.shape for info in header.tensors} == {
        name: array.shape for name, array in arrays.items()
    }
    found = {
        info.name: np.full(info.num_elements, 1, DTYPES[info.dtype]) for info in header.tensors
    }
    filled = dict.fromkeys(found, 0)
    for block in blocks:
        assert block.start == filled[block.tensor.name]
        filled[block.tensor.name] += len(block.values)
        found[block.tensor.name][block.start : filled[block.tensor.name]] = block.values
    assert filled == {name: array.size for name, array in arrays.items()}
    shaped = {info.name: found[info.name].reshape(info.shape) for info in header.tensors}
    assert_same(shaped, arrays)


def test_bytes_one_at_a_time_are_enough() -> None:
    arrays = {"x": np.arange(6, dtype=np.float64).reshape(2, 3), "y": np.array(3, np.uint8)}
    content = codec.encode(arrays)
    reader, blocks = stream(content, range(len(content)))
    reader.finish()
    assert [(block.tensor.name, block.start, len(block.values)) for block in blocks] == [
        *(("x", index, 1) for index in range(6)),
        ("y", 0, 1),
    ]


def test_a_block_is_never_larger_than_the_piece_that_completed_it() -> None:
    content = codec.encode({"x": np.zeros(100_000, np.float32)})
    _, blocks = stream(content, range(0, len(content), 1001))
    assert max(block.values.nbytes for block in blocks) <= 1001 + 3


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_position_of_the_first_non_finite_value_is_named(dtype: str, value: float) -> None:
    array = np.zeros((2, 3, 4), DTYPES[dtype])
    array[1, 0, 2] = value
    array[1, 2, 3] = np.nan
    with pytest.raises(NonFiniteError, match="tensor x holds") as refusal:
        codec.decode(library.save({"a": np.zeros(3, np.float32), "x": array}))
    assert refusal.value.where == {"tensor": "x", "position": [1, 0, 2], "found": str(value)}


def test_the_position_of_a_scalar_is_empty() -> None:
    with pytest.raises(NonFiniteError) as refusal:
        codec.decode(library.save({"x": np.array(np.inf, np.float32)}))
    assert refusal.value.where == {"tensor": "x", "position": [], "found": "inf"}


@pytest.mark.parametrize("piece_bytes", [1, 5, 64, 1000])
def test_the_position_of_a_nan_is_the_same_in_any_piece(piece_bytes: int) -> None:
    array = np.zeros((5, 7), np.float32)
    array[3, 4] = np.nan
    content = library.save({"x": array})
    _, blocks = stream(content, range(0, len(content), piece_bytes))
    positions = []
    for block in blocks:
        try:
            check_finite(block)
        except NonFiniteError as refusal:
            positions.append(refusal.where["position"])
    assert positions == [[3, 4]]


def test_whole_numbers_are_always_finite() -> None:
    for dtype in ("I64", "U8"):
        info = TensorInfo("x", dtype, (2,), 0, 16)
        check_finite(Block(info, 0, np.array([0, 255], DTYPES[dtype])))


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    content = file_of({"x": entry("BF16", [3], [0, 6])}, bytes.fromhex("803f 00c0 7f7f"))
    arrays, _ = codec.decode(content)
    assert arrays["x"].dtype == BFLOAT16
    upper = np.array([0x3F800000, 0xC0000000, 0x7F7F0000], np.uint32).view(np.float32)
    np.testing.assert_array_equal(arrays["x"].astype(np.float32), upper)


def test_arrays_of_any_layout_are_written_alike() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = codec.encode({"x": array})
    for same in (
        np.asfortranarray(array),
        array.astype(">f4"),
        np.stack([array, array], axis=-1)[..., 1],
    ):
        assert codec.encode({"x": same}) == expected


def test_decoded_arrays_are_views_of_the_file() -> None:
    content = codec.encode({"x": np.ones(1000, np.float32)})
    arrays, _ = codec.decode(content)
    assert not arrays["x"].flags.writeable
    assert np.shares_memory(arrays["x"], np.frombuffer(content, np.uint8))


def test_any_kind_of_bytes_can_be_decoded() -> None:
    arrays = {"x": np.array([1.5, -2.5], np.float32)}
    content = codec.encode(arrays)
    for same in (bytearray(content), memoryview(content)):
        assert_same(codec.decode(same)[0], arrays)


def test_a_file_without_tensors_has_metadata_alone() -> None:
    content = codec.encode({}, {"hyperfl": "ü"})
    assert codec.decode(content) == ({}, {"hyperfl": "ü"})
    assert codec.decode(file_of({})) == ({}, {})


def test_the_header_counts_elements_and_bytes() -> None:
    content = codec.encode({"x": np.zeros((2, 3), np.float16), "y": np.array(1.0, np.float64)})
    reader, _ = stream(content, [])
    header = reader.finish()
    assert header.data_bytes == 2 * 6 + 8
    assert {info.name: info.num_elements for info in header.tensors} == {"x": 6, "y": 1}


@given(arrays=ARRAYS)
def test_a_file_written_in_pieces_is_what_the_library_and_the_reader_read(
    arrays: dict[str, Array],
) -> None:
    content = b"".join(codec.encode_pieces(arrays))
    entries = dict(deserialize(content))
    assert entries.keys() == arrays.keys()
    decoded, metadata = codec.decode(content)
    assert (list(decoded), metadata) == (sorted(arrays), {}) or not all(
        array.size for array in arrays.values()
    )
    for name, array in arrays.items():
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)
        assert decoded[name].tobytes() == array.tobytes() == bytes(entries[name]["data"])
