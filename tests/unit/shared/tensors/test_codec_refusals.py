"""Files that the codec refuses: cut off, malformed, too large, or with a name that is no text."""

from __future__ import annotations

import json
import math
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from shared.rest.problems import Problem, ProblemType
from shared.tensors import codec
from shared.tensors.codec import StreamReader
from shared.tensors.file_header import MAX_TENSORS, CodecError, NotSafetensorsError
from tests.support.codec_files import (
    DTYPES,
    TEXT,
    assert_same,
    entry,
    file_of,
    read_by_library,
    stream,
)


def read_whole(content: bytes) -> Any:
    return codec.decode(content)


def read_streaming(content: bytes) -> Any:
    reader, _ = stream(content, range(0, len(content), 7))
    return reader.finish()


BOTH_READERS = pytest.mark.parametrize("read", [read_whole, read_streaming])


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
