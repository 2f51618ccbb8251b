"""The factored encoding of one tensor: what is sent and what is left out make up the change."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from shared.arrays import Array
from shared.federation.specification import WireDtype
from shared.tensors.factored_encoding import (
    MAX_RESIDUAL_RANK,
    Compression,
    decode_factored,
    encode_matrix,
    encode_whole,
    scale_wire,
)
from shared.tensors.low_rank import FactoredDelta, Float64
from tests.support.factored_wire import (
    COLUMNS,
    MATRIX,
    ROWS,
    VECTOR,
    check,
    parameters,
    whole_vector,
)

WIRE_DTYPES: dict[WireDtype, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}

ROUNDING = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}
EACH_WIRE_DTYPE = pytest.mark.parametrize("wire_dtype", list(WIRE_DTYPES))
SEEDS = st.integers(0, 2**32 - 1)


def change(
    seed: int, components: int, scale: float = 0.0, size: float = 1.0, decay: float = 0.5
) -> FactoredDelta:
    generator = np.random.default_rng(seed)
    left = generator.standard_normal((components, ROWS))
    right = generator.standard_normal((components, COLUMNS))
    left *= size * decay ** np.arange(components)[:, None]
    return FactoredDelta(scale, left.astype(np.float32), right.astype(np.float32))


def received(wire: dict[str, Array]) -> FactoredDelta:
    decoded = decode_factored(wire | whole_vector(), parameters())[MATRIX]
    assert isinstance(decoded, FactoredDelta)
    return decoded


def product(delta: FactoredDelta) -> Float64:
    """Components alone, without the part of the base."""
    exact: Float64 = delta.left.astype(np.float64).T @ delta.right.astype(np.float64)
    return exact


@EACH_WIRE_DTYPE
@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    components=st.integers(0, 10),
    max_rank=st.integers(1, 9),
    tolerance=st.floats(0.0, 0.9),
)
def test_what_is_sent_and_what_is_left_out_make_up_a_matrixs_change(
    wire_dtype: WireDtype, seed: int, components: int, max_rank: int, tolerance: float
) -> None:
    wanted = change(seed, components, scale=-0.25)
    wire, left_out = encode_matrix(MATRIX, wanted, Compression(wire_dtype, tolerance, max_rank))
    sent = received(wire)
    exact = product(wanted)
    size = max(1.0, float(np.linalg.norm(exact)))
    assert sent.scale + left_out.scale == -0.25
    np.testing.assert_allclose(product(sent) + product(left_out), exact, atol=2e-6 * size)


@EACH_WIRE_DTYPE
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, tolerance=st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_what_is_left_out_is_within_the_tolerance_and_the_rounding(
    wire_dtype: WireDtype, seed: int, tolerance: float
) -> None:
    wanted = change(seed, 6)
    wire, left_out = encode_matrix(MATRIX, wanted, Compression(wire_dtype, tolerance, COLUMNS))
    size = np.linalg.norm(product(wanted))
    limit = tolerance + 4 * ROUNDING[wire_dtype] + 2e-6
    assert np.linalg.norm(product(wanted) - product(received(wire))) <= limit * size
    assert np.linalg.norm(product(left_out)) <= limit * size


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, tolerance=st.sampled_from([0.05, 0.2, 0.5]))
def test_no_more_components_are_sent_than_the_tolerance_needs(seed: int, tolerance: float) -> None:
    wanted = change(seed, 6)
    wire, _ = encode_matrix(MATRIX, wanted, Compression("float32", tolerance, COLUMNS))
    exact = np.linalg.svd(product(wanted), compute_uv=False)
    errors = np.array([np.linalg.norm(exact[rank:]) for rank in range(len(exact) + 1)])
    fewest = int(np.flatnonzero(errors <= tolerance * errors[0])[0])
    assert len(wire[MATRIX + "/left"]) == fewest


@pytest.mark.parametrize("max_rank", [1, 2, 5])
def test_the_cap_on_the_rank_is_respected(max_rank: int) -> None:
    wanted = change(1, 7)
    wire, left_out = encode_matrix(MATRIX, wanted, Compression("float16", 0.0, max_rank))
    assert wire[MATRIX + "/left"].shape == (max_rank, ROWS)
    assert wire[MATRIX + "/right"].shape == (max_rank, COLUMNS)
    exact = np.linalg.svd(product(wanted), compute_uv=False)
    assert np.linalg.norm(product(left_out)) == pytest.approx(
        np.linalg.norm(exact[max_rank:]), rel=1e-2
    )


def test_what_is_left_out_keeps_the_strongest_components_alone() -> None:
    generator = np.random.default_rng(1)
    count, max_rank = 50, 4
    wanted = FactoredDelta(
        0.0,
        generator.standard_normal((count, 60)).astype(np.float32),
        generator.standard_normal((count, 55)).astype(np.float32),
    )
    _, left_out = encode_matrix(MATRIX, wanted, Compression("float32", 0.0, max_rank))
    assert left_out.rank == max_rank + MAX_RESIDUAL_RANK
    exact = np.linalg.svd(product(wanted), compute_uv=False)
    kept = np.linalg.norm(exact[max_rank : max_rank + MAX_RESIDUAL_RANK])
    assert np.linalg.norm(product(left_out)) == pytest.approx(kept, rel=1e-5)


@EACH_WIRE_DTYPE
def test_error_feedback_delivers_everything_in_the_end(wire_dtype: WireDtype) -> None:
    """Nothing more is wanted after the first time, so what is left out dwindles to nothing."""
    wanted = change(2, 6)
    total = np.zeros((ROWS, COLUMNS))
    left_out = FactoredDelta.zero(ROWS, COLUMNS)
    sending = wanted
    for _ in range(12):
        wire, left_out = encode_matrix(MATRIX, sending, Compression(wire_dtype, 0.0, 2))
        total += product(received(wire))
        sending = left_out
    size = np.linalg.norm(product(wanted))
    assert np.linalg.norm(product(left_out)) < 1e-5 * size
    np.testing.assert_allclose(total, product(wanted), atol=1e-5 * size)


@EACH_WIRE_DTYPE
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
def test_the_size_of_a_change_is_no_matter_for_half_precision(
    wire_dtype: WireDtype, size: float
) -> None:
    wanted = change(3, 3, size=size)
    wire, left_out = encode_matrix(MATRIX, wanted, Compression(wire_dtype, 0.0, COLUMNS))
    left = wire[MATRIX + "/left"]
    assert left.dtype == WIRE_DTYPES[wire_dtype]
    np.testing.assert_array_equal(np.abs(left.astype(np.float32)).max(axis=1), 1.0)
    exact = product(wanted)
    error = np.linalg.norm(exact - product(received(wire)))
    assert error <= 4 * ROUNDING[wire_dtype] * np.linalg.norm(exact)
    total = product(received(wire)) + product(left_out)
    np.testing.assert_allclose(total, exact, atol=2e-6 * np.linalg.norm(exact))


def test_each_component_has_a_scale_of_its_own() -> None:
    wanted = change(4, 2, size=1e6, decay=1e-5)
    wire, _ = encode_matrix(MATRIX, wanted, Compression("float16", 0.0, COLUMNS))
    sent = received(wire)
    exact = np.linalg.svd(product(wanted))
    weak = exact.U[:, 1:2] * exact.S[1] @ exact.Vh[1:2]
    found = np.outer(sent.left[1].astype(np.float64), sent.right[1])
    assert np.linalg.norm(found - weak) < 1e-2 * exact.S[1]


@EACH_WIRE_DTYPE
@pytest.mark.parametrize("components", [0, 2])
def test_no_change_of_a_matrix_has_no_components(wire_dtype: WireDtype, components: int) -> None:
    nothing = change(5, components, size=0.0)
    wire, left_out = encode_matrix(MATRIX, nothing, Compression(wire_dtype, 0.0, 4))
    assert wire[MATRIX + "/left"].shape == (0, ROWS)
    assert wire[MATRIX + "/right"].shape == (0, COLUMNS)
    assert left_out.rank == 0
    check(wire | whole_vector())
    np.testing.assert_array_equal(product(received(wire)), 0.0)


@EACH_WIRE_DTYPE
@settings(max_examples=60, deadline=None)
@given(
    wanted=numpy_strategies.arrays(
        np.float32,
        numpy_strategies.array_shapes(min_dims=1, max_dims=3, max_side=4),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_a_whole_tensor_and_its_rounding_add_up_exactly(
    wire_dtype: WireDtype, wanted: Array
) -> None:
    wire, rounding = encode_whole("x", wanted, wire_dtype)
    assert wire["x"].dtype == WIRE_DTYPES[wire_dtype]
    assert wire["x"].shape == rounding.shape == wanted.shape
    assert wire["x/scale"].shape == ()
    assert wire["x/scale"].dtype == np.float32
    sent = wire["x"].astype(np.float32) * wire["x/scale"]
    np.testing.assert_array_equal(sent.astype(np.float64) + rounding, wanted)
    largest = float(np.abs(wanted).max())
    assert np.abs(rounding).max() <= ROUNDING[wire_dtype] * 2 * largest


def test_a_whole_tensor_of_zeros_is_zeros() -> None:
    wire, rounding = encode_whole("x", np.zeros(3, np.float32), "float16")
    assert wire["x"].tolist() == rounding.tolist() == [0.0, 0.0, 0.0]
    assert wire["x/scale"] == 1.0


def test_wire_tensors_stand_for_what_the_protocol_says() -> None:
    wire = {
        MATRIX + "/left": np.array([[1.0, 0.5], [0.0, -1.0]], np.float16),
        MATRIX + "/right": np.array([[4.0, 8.0, 0.0], [1.0, 1.0, 1.0]], np.float32),
        MATRIX + "/base_scale": np.array(-0.5, np.float32),
        VECTOR: np.array([1.0, -0.5, 0.25], ml_dtypes.bfloat16),
        VECTOR + "/scale": np.array(8.0, np.float32),
    }
    specification = parameters(2, 3)
    check(wire, specification)
    decoded = decode_factored(wire, specification)
    matrix = decoded[MATRIX]
    assert isinstance(matrix, FactoredDelta)
    assert matrix.left.dtype == np.float32
    base = np.full((2, 3), 2.0, np.float32)
    np.testing.assert_array_equal(matrix.dense(base), [[3.0, 7.0, -1.0], [0.0, 2.0, -2.0]])
    vector = decoded[VECTOR]
    assert isinstance(vector, np.ndarray)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, [8.0, -4.0, 2.0])


def test_a_scaled_delta_is_the_same_multiple_of_the_change() -> None:
    generator = np.random.default_rng(1)
    wire = {
        "w/left": generator.uniform(-1, 1, (2, 6)).astype(np.float16),
        "w/right": generator.standard_normal((2, 3), np.float32),
        "w/base_scale": np.array(-0.5, np.float32),
        "b": generator.uniform(-1, 1, 4).astype(np.float16),
        "b/scale": np.array(3.0, np.float32),
    }
    scaled = scale_wire(wire, 0.25)
    assert {name: array.dtype for name, array in scaled.items()} == {
        name: array.dtype for name, array in wire.items()
    }
    for name in ("w/left", "b"):
        np.testing.assert_array_equal(scaled[name], wire[name])
    for name in ("w/right", "w/base_scale", "b/scale"):
        np.testing.assert_allclose(scaled[name], 0.25 * wire[name], rtol=1e-7)
