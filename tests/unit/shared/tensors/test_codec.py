"""The safetensors reader: what the library writes is read, and everything else has an error."""

from __future__ import annotations

import json
import math
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from safetensors import SafetensorError, deserialize
from safetensors import numpy as library

from shared.arrays import Array
from shared.rest.problems import Problem, ProblemType
from shared.tensors import codec
from shared.tensors.codec import Block, StreamReader, check_finite
from shared.tensors.file_header import (
    MAX_TENSORS,
    CodecError,
    NonFiniteError,
    NotSafetensorsError,
    TensorInfo,
)

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


def read_whole(content: bytes) -> Any:
    return codec.decode(content)


def read_streaming(content: bytes) -> Any:
    reader, _ = stream(content, range(0, len(content), 7))
    return reader.finish()


BOTH_READERS = pytest.mark.parametrize("read", [read_whole, read_streaming])


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


@BOTH_READERS
def test_every_truncation_is_refused(read: Callable[[bytes], Any]) -> None:
    arrays = {"x": np.ones((2, 3), np.float32), "y": np.zeros(3, np.uint8)}
    content = codec.encode(arrays, {"a": "b"})
    read(content)
    for length in range(len(content)):
        with pytest.raises(NotSafetensorsError):
            read(content[:length])


@BOTH_READERS
def test_bytes_after_the_last_tensor_are_refused(read: Callable[[bytes], Any]) -> None:
    for arrays in ({"x": np.ones(2, np.float32)}, {}):
        with pytest.raises(NotSafetensorsError) as refusal:
            read(codec.encode(arrays) + b"\0")
        assert refusal.value.where["found"] == refusal.value.where["expected"] + 1


def test_bytes_after_the_last_tensor_are_refused_when_they_come() -> None:
    content = codec.encode({"x": np.ones(2, np.float32)})
    reader, _ = stream(content, [])
    with pytest.raises(NotSafetensorsError, match="bytes follow the last tensor"):
        list(reader.feed(b"\0"))


def test_every_corruption_of_one_header_byte_is_refused_or_a_file_the_library_reads_alike() -> None:
    header = b'{"__metadata__":{"m":"n"},"w":{"dtype":"F64","shape":[1,2],"data_offsets":[0,16]}}'
    content = file_of(header, struct.pack("<2d", 1.0, -2.0))
    accepted = 0
    for position in range(8 + len(header)):
        for value in set(range(256)) - {content[position]}:
            changed = content[:position] + bytes([value]) + content[position + 1 :]
            try:
                arrays, _ = codec.decode(changed)
            except CodecError:
                with pytest.raises(CodecError):
                    read_streaming(changed)
                continue
            read_streaming(changed)
            accepted += 1
            assert_same(read_by_library(changed), arrays)
    assert accepted > 100  # other letters in the names


@settings(max_examples=200, deadline=None)
@given(header=st.binary(max_size=60))
def test_no_header_of_any_bytes_raises_another_error(header: bytes) -> None:
    for content in (header, file_of(header), file_of(b'{"x":' + header + b"}")):
        for read in (read_whole, read_streaming):
            try:
                read(content)
            except CodecError:
                continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(["F32", "U8"]) | JSON,
    shape=st.lists(st.integers(0, 3) | st.integers(), max_size=10) | JSON,
    offsets=st.tuples(st.just(0), st.integers(0, 8)) | JSON,
)
def test_no_entry_of_any_kind_raises_another_error(dtype: Any, shape: Any, offsets: Any) -> None:
    content = file_of({"x": entry(dtype, shape, offsets)}, bytes(4))
    try:
        arrays, _ = codec.decode(content)
    except CodecError:
        return
    assert_same(read_by_library(content), arrays)


REFUSED_HEADERS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "not JSON": (b"{{", "not JSON", {}),
    "no text": (b"", "not JSON", {}),
    "not UTF-8": (b'{"\xff":1}', "not JSON", {}),
    "nested too deep": (b"[" * 30_000, "not JSON", {}),
    "countless lists": (b"[" * 100_000, "100000 lists and objects", {}),
    "a number too long": (b'{"x":' + b"9" * 5000 + b"}", "not JSON", {}),
    "a list": ([], "not a JSON object", {}),
    "a null": (None, "not a JSON object", {}),
    "metadata is a list": ({"__metadata__": []}, "not an object of strings", {}),
    "metadata holds a number": ({"__metadata__": {"a": 1}}, "not an object of strings", {}),
    "an entry is a list": ({"x": []}, "needs exactly dtype", {"tensor": "x"}),
    "an entry lacks its shape": (
        {"x": {"dtype": "F32", "data_offsets": [0, 4]}},
        "needs exactly dtype",
        {"tensor": "x"},
    ),
    "an entry has more": ({"x": entry(order="F")}, "needs exactly dtype", {"tensor": "x"}),
    "an unknown dtype": (
        {"x": entry("F8_E4M3")},
        "unknown dtype",
        {"tensor": "x", "expected": list(DTYPES), "found": "F8_E4M3"},
    ),
    "a dtype that is a list": ({"x": entry(["F32"])}, "unknown dtype", {"found": "list"}),
    "a negative size": ({"x": entry(shape=[-1])}, "malformed shape", {"tensor": "x"}),
    "a size that is a fraction": ({"x": entry(shape=[1.0])}, "malformed shape", {"tensor": "x"}),
    "a size that is true": ({"x": entry(shape=[True])}, "malformed shape", {"tensor": "x"}),
    "a shape that is a number": ({"x": entry(shape=1)}, "malformed shape", {"tensor": "x"}),
    "nine dimensions": ({"x": entry(shape=[1] * 9)}, "malformed shape", {"tensor": "x"}),
    "one offset": ({"x": entry(offsets=[0])}, "malformed data_offsets", {"tensor": "x"}),
    "three offsets": ({"x": entry(offsets=[0, 4, 8])}, "malformed data_offsets", {"tensor": "x"}),
    "an offset that is text": ({"x": entry(offsets=[0, "4"])}, "malformed data_offsets", {}),
    "offsets backwards": (
        {"x": entry(offsets=[4, 0])},
        "does not fill its bytes",
        {"tensor": "x", "expected": 4, "found": -4},
    ),
    "a shape that needs more bytes": (
        {"x": entry(shape=[2])},
        "does not fill its bytes",
        {"tensor": "x", "expected": 8, "found": 4},
    ),
    "a gap before the first tensor": (
        {"x": entry(offsets=[4, 8])},
        "does not start where",
        {"tensor": "x", "expected": 0, "found": 4},
    ),
    "a gap between tensors": (
        {"x": entry(), "y": entry(offsets=[8, 12])},
        "does not start where",
        {"tensor": "y", "expected": 4, "found": 8},
    ),
    "two tensors of the same bytes": (
        {"x": entry(), "y": entry()},
        "does not start where",
        {"tensor": "y", "expected": 4, "found": 0},
    ),
}


@pytest.mark.parametrize("case", REFUSED_HEADERS)
@BOTH_READERS
def test_a_malformed_header_is_refused_and_says_what_and_where(
    read: Callable[[bytes], Any], case: str
) -> None:
    header, message, where = REFUSED_HEADERS[case]
    with pytest.raises(NotSafetensorsError, match=message) as refusal:
        read(file_of(header, bytes(4)))
    assert {name: refusal.value.where.get(name) for name in where} == where


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"x":{}}', "x"),
        (b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"shape":[0]}}', "shape"),
        (b'{"__metadata__":{"a":"1","a":"2"}}', "a"),
        (b'{"__metadata__":{},"__metadata__":{}}', "__metadata__"),
        (b'{"x":{},"\\u0078":{}}', "x"),
    ],
)
@BOTH_READERS
def test_a_name_given_twice_is_refused(
    read: Callable[[bytes], Any], header: bytes, name: str
) -> None:
    with pytest.raises(NotSafetensorsError, match=f"names '{name}' twice") as refusal:
        read(file_of(header))
    assert refusal.value.where == {"tensor": name}


def test_a_name_given_twice_among_many_is_found_in_linear_time() -> None:
    def cpu_seconds(count: int) -> float:
        names = [f'"{index}":0' for index in range(count)]
        content = file_of(f"{{{','.join([*names, *names[-1:]])}}}".encode())
        started = time.process_time()
        with pytest.raises(NotSafetensorsError, match=f"'{count - 1}' twice"):
            codec.decode(content)
        return time.process_time() - started

    # Sixteen times the names: 16 times as long if linear, 256 times if each is compared with each.
    few, many = (min(cpu_seconds(count) for _ in range(3)) for count in (1_000, 16_000))
    assert many < 64 * few


@pytest.mark.parametrize(
    "shape",
    [
        [1 << 41],
        [1 << 20, 1 << 21],
        [1 << 62, 1 << 62],
        [10**30],
        [10**30, 0],
        [0, 10**30],
        [0, 1 << 62, 1 << 62],
    ],
)
@BOTH_READERS
def test_a_huge_shape_is_refused_by_its_header(
    read: Callable[[bytes], Any], shape: list[int]
) -> None:
    length = 4 * math.prod(shape)
    with pytest.raises(NotSafetensorsError) as refusal:
        read(file_of({"x": entry(shape=shape, offsets=[0, length])}))
    assert refusal.value.where["tensor"] == "x"


@BOTH_READERS
def test_a_large_tensor_that_never_comes_costs_no_memory(read: Callable[[bytes], Any]) -> None:
    content = file_of({"x": entry(shape=[1 << 40], offsets=[0, 4 << 40])}, bytes(64))
    tracemalloc.start()
    try:
        with pytest.raises(NotSafetensorsError) as refusal:
            read(content)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refusal.value.where == {"expected": 4 << 40, "found": 64}
    assert peak_bytes < 1 << 20


def test_a_header_over_the_limit_is_refused_at_its_length() -> None:
    with pytest.raises(NotSafetensorsError, match="claims 1048577 bytes") as refusal:
        list(StreamReader().feed(struct.pack("<Q", (1 << 20) + 1)))
    assert refusal.value.where == {"expected": 1 << 20, "found": (1 << 20) + 1}
    with pytest.raises(NotSafetensorsError, match=f"claims {2**64 - 1} bytes"):
        codec.decode(b"\xff" * 8)


@pytest.mark.parametrize("read", [read_whole, lambda content: stream(content, [9])[0].finish()])
def test_more_tensors_than_the_limit_are_refused(read: Callable[[bytes], Any]) -> None:
    tensors = {f"{number:x}": entry("U8", [0], [0, 0]) for number in range(MAX_TENSORS + 1)}
    with pytest.raises(NotSafetensorsError, match="the file has 10001 tensors") as refusal:
        read(file_of(tensors))
    assert refusal.value.where == {"expected": MAX_TENSORS, "found": MAX_TENSORS + 1}
    del tensors["0"]
    read(file_of(tensors))


def test_a_header_of_exactly_the_limit_is_read() -> None:
    content = file_of(b"{}" + b" " * 8)
    reader = StreamReader(max_header_bytes=10)
    assert list(reader.feed(content)) == []
    assert reader.finish().tensors == ()
    with pytest.raises(NotSafetensorsError, match="claims 10 bytes"):
        list(StreamReader(max_header_bytes=9).feed(content))


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


@pytest.mark.parametrize(
    "header",
    [
        b'{"x":{"dtype":NaN,"shape":[1],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":{"a":[Infinity]},"shape":[1],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"\\ud800","shape":[1],"data_offsets":[0,4]}}',
        b'{"\\ud800":[]}',
        b'{"\\ud800":1,"\\ud800":1}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,' + b"9" * 4300 + b"]}}",
    ],
    ids=["NaN", "infinity inside", "dtype", "name", "name twice", "long number"],
)
def test_a_refusal_can_be_sent_as_a_problem_document(header: bytes) -> None:
    with pytest.raises(CodecError) as refusal:
        codec.decode(file_of(header))
    problem = Problem.of(ProblemType.MALFORMED_UPDATE, str(refusal.value), **refusal.value.where)
    document = json.dumps(problem.model_dump(), allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(document)["status"] == 422


def test_the_library_refuses_a_name_that_is_no_unicode_text_too() -> None:
    with pytest.raises(SafetensorError):
        read_by_library(file_of(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
    with pytest.raises(NotSafetensorsError):
        codec.decode(file_of(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))


def test_metadata_that_is_no_unicode_text_is_refused() -> None:
    with pytest.raises(NotSafetensorsError):
        codec.decode(file_of(b'{"__metadata__":{"hyperfl":"\\ud800"}}'))


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
