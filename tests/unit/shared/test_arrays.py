"""The digest that identifies a set of named arrays, whatever file carried them."""

from __future__ import annotations

import hashlib
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from shared.arrays import Array, digest_arrays, digest_bytes

ARRAYS = st.dictionaries(
    st.from_regex(r"[a-z0-9_]{1,8}(\.[a-z0-9_]{1,8})?", fullmatch=True),
    numpy_strategies.arrays(
        np.float32,
        numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=st.floats(width=32, allow_nan=False),
    ),
    max_size=4,
)


def test_the_digest_is_the_sha256_that_the_protocol_spells_out() -> None:
    arrays = {
        "b.weight": np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 4.0]], np.float32),
        "a.bias": np.array([7, -8], np.int64),
    }
    text = b'["a.bias","int64",[2]]\n' + struct.pack("<2q", 7, -8)
    text += b'["b.weight","float32",[2,3]]\n' + struct.pack("<6f", 1.0, -2.0, 0.5, 0.0, 3.0, 4.0)
    assert digest_arrays(arrays) == "sha256:" + hashlib.sha256(text).hexdigest()


def test_a_scalar_and_an_empty_array_have_their_headings() -> None:
    arrays = {"empty": np.zeros((0, 3), np.float16), "scalar": np.array(0.25, np.float64)}
    text = b'["empty","float16",[0,3]]\n["scalar","float64",[]]\n' + struct.pack("<d", 0.25)
    assert digest_arrays(arrays) == "sha256:" + hashlib.sha256(text).hexdigest()


def test_bfloat16_is_named_as_numpy_names_it() -> None:
    arrays = {"x": np.array([1.0, -2.0], ml_dtypes.bfloat16)}
    text = b'["x","bfloat16",[2]]\n' + bytes.fromhex("803f00c0")
    assert digest_arrays(arrays) == "sha256:" + hashlib.sha256(text).hexdigest()


def test_names_are_ordered_by_code_points() -> None:
    arrays = {name: np.array([1], np.uint8) for name in ("a_b", "a.b", "a0", "a")}
    text = b"".join(
        b'["%s","uint8",[1]]\n\x01' % name.encode() for name in ("a", "a.b", "a0", "a_b")
    )
    assert digest_arrays(arrays) == "sha256:" + hashlib.sha256(text).hexdigest()


@settings(max_examples=50, deadline=None)
@given(arrays=ARRAYS, data=st.data())
def test_the_digest_does_not_depend_on_the_order_of_the_names(
    arrays: dict[str, Array], data: st.DataObject
) -> None:
    reordered = {name: arrays[name] for name in data.draw(st.permutations(list(arrays)))}
    assert digest_arrays(reordered) == digest_arrays(arrays)


@settings(max_examples=50, deadline=None)
@given(arrays=ARRAYS)
def test_the_digest_does_not_depend_on_the_layout_in_memory(arrays: dict[str, Array]) -> None:
    other = {
        name: np.asarray(array, order="F").astype(array.dtype.newbyteorder(">"), order="K")
        for name, array in arrays.items()
    }
    strided = {name: np.stack([array, array], axis=-1)[..., 0] for name, array in arrays.items()}
    assert digest_arrays(other) == digest_arrays(strided) == digest_arrays(arrays)


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([1.0, 2.0], np.float64)},
        {"x": np.array([[1.0, 2.0]], np.float32)},
        {"x": np.array([2.0, 1.0], np.float32)},
        {"y": np.array([1.0, 2.0], np.float32)},
        {"x": np.array([1.0], np.float32), "y": np.array([2.0], np.float32)},
        {},
    ],
    ids=["dtype", "shape", "order of elements", "name", "division", "nothing"],
)
def test_another_set_of_arrays_has_another_digest(other: dict[str, Array]) -> None:
    assert digest_arrays(other) != digest_arrays({"x": np.array([1.0, 2.0], np.float32)})


def test_zero_and_negative_zero_are_different_bits() -> None:
    assert digest_arrays({"x": np.array(0.0)}) != digest_arrays({"x": np.array(-0.0)})


def test_bytes_are_digested_as_they_are() -> None:
    assert digest_bytes(b"abc") == digest_bytes(bytearray(b"abc"))
    assert digest_bytes(b"abc") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
