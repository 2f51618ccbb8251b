"""Encodings of whole updates: what is decoded, and what is left for later, are the changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.arrays import Array
from shared.federation.specification import EncodingPlan, ParameterSpecification
from shared.tensors import codec
from shared.tensors.encodings import (
    DenseEncoding,
    Encoding,
    FactoredEncoding,
    check_tensors,
    encoding_for,
)
from shared.tensors.factored_encoding import Delta
from shared.tensors.file_header import Header, NonFiniteError, UnexpectedTensorsError
from shared.tensors.low_rank import FactoredDelta, Float64

WIDE, SMALL, VECTOR, KERNEL = "wide.weight", "small.weight", "bias", "kernel"
SHAPES = {WIDE: (15, 6), SMALL: (1, 2), VECTOR: (7,), KERNEL: (2, 3, 2)}
PARAMETERS = ParameterSpecification.model_validate(
    {
        "seed": 3,
        "tensors": [
            {
                "name": name,
                "shape": shape,
                "initialisation": [{"rows": shape[0], "bound": 1.0}],
            }
            for name, shape in SHAPES.items()
        ],
    }
)
BASE = PARAMETERS.initial_values()
ENCODINGS = {
    "dense": DenseEncoding(),
    **{
        wire_dtype: FactoredEncoding(
            EncodingPlan.model_validate({"wire_dtype": wire_dtype, "max_rank": 2})
        )
        for wire_dtype in ("float32", "float16", "bfloat16")
    },
}
EACH_ENCODING = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS.keys())


def changes(seed: int, **replaced: Delta) -> dict[str, Delta]:
    """A change of every tensor, of the wide matrix in factors."""
    generator = np.random.default_rng(seed)
    dense: dict[str, Delta] = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()
    }
    rows, columns = SHAPES[WIDE]
    dense[WIDE] = FactoredDelta(
        -0.125,
        generator.standard_normal((3, rows)).astype(np.float32),
        generator.standard_normal((3, columns)).astype(np.float32),
    )
    return dense | replaced


def exactly(change: Delta, name: str) -> Float64:
    """A change in float64."""
    if not isinstance(change, FactoredDelta):
        return change.astype(np.float64)
    exact: Float64 = change.left.astype(np.float64).T @ change.right.astype(np.float64)
    exact += change.scale * BASE[name].astype(np.float64)
    return exact


def check(encoding: Encoding, wire: dict[str, Array]) -> None:
    """The two checks of a receiver, on the bytes that a sender would send."""
    reader = codec.StreamReader()
    blocks = list(reader.feed(codec.encode(wire)))
    encoding.check_header(reader.finish(), PARAMETERS)
    for block in blocks:
        encoding.check_block(block)


def header_of(wire: dict[str, Array]) -> Header:
    reader = codec.StreamReader()
    list(reader.feed(codec.encode(wire)))
    return reader.finish()


@EACH_ENCODING
def test_an_update_passes_its_own_checks_and_survives_its_file(encoding: Encoding) -> None:
    wire = encoding.encode(changes(1), {}, BASE, PARAMETERS).wire
    check(encoding, wire)
    sent = encoding.decode(wire, PARAMETERS)
    read = encoding.decode(codec.decode(codec.encode(wire))[0], PARAMETERS)
    assert read.keys() == sent.keys() == SHAPES.keys()
    for name in SHAPES:
        np.testing.assert_array_equal(exactly(read[name], name), exactly(sent[name], name))


@EACH_ENCODING
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), rounds=st.integers(1, 5))
def test_nothing_is_lost_over_any_number_of_rounds(
    encoding: Encoding, seed: int, rounds: int
) -> None:
    """All that was wanted is all that was decoded and what is left at the end."""
    wanted = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    decoded = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    residual: dict[str, Delta] = {}
    for number in range(rounds):
        deltas = changes(seed + number)
        encoded = encoding.encode(deltas, residual, BASE, PARAMETERS)
        residual = encoded.residual
        for name, change in encoding.decode(encoded.wire, PARAMETERS).items():
            wanted[name] += exactly(deltas[name], name)
            decoded[name] += exactly(change, name)
    for name in SHAPES:
        left = exactly(residual[name], name) if name in residual else 0.0
        np.testing.assert_allclose(decoded[name] + left, wanted[name], atol=2e-5)


def test_dense_is_the_change_itself_and_leaves_nothing_out() -> None:
    deltas = changes(2)
    encoded = DenseEncoding().encode(deltas, {}, BASE, PARAMETERS)
    assert encoded.residual == {}
    for name, shape in SHAPES.items():
        assert encoded.wire[name].dtype == np.float32
        assert encoded.wire[name].shape == shape
    for name in (SMALL, VECTOR, KERNEL):
        np.testing.assert_array_equal(encoded.wire[name], deltas[name])
    np.testing.assert_allclose(encoded.wire[WIDE], exactly(deltas[WIDE], WIDE), atol=1e-5)


def test_dense_adds_what_was_left_out_before() -> None:
    residual: dict[str, Delta] = {VECTOR: np.full(7, 0.5, np.float32)}
    deltas = changes(2, **{VECTOR: np.ones(7, np.float32)})
    wire = DenseEncoding().encode(deltas, residual, BASE, PARAMETERS).wire
    np.testing.assert_array_equal(wire[VECTOR], np.full(7, 1.5))


def test_factored_sends_factors_as_components_and_everything_else_whole() -> None:
    wire = ENCODINGS["float16"].encode(changes(3), {}, BASE, PARAMETERS).wire
    assert {name: (array.dtype.name, array.shape) for name, array in wire.items()} == {
        WIDE + "/left": ("float16", (2, 15)),
        WIDE + "/right": ("float32", (2, 6)),
        WIDE + "/base_scale": ("float32", ()),
        SMALL: ("float16", (1, 2)),
        SMALL + "/scale": ("float32", ()),
        VECTOR: ("float16", (7,)),
        VECTOR + "/scale": ("float32", ()),
        KERNEL: ("float16", (2, 3, 2)),
        KERNEL + "/scale": ("float32", ()),
    }
    assert wire[WIDE + "/base_scale"] == -0.125


def test_the_plan_sets_rank_and_tolerance() -> None:
    def rank(**plan: Any) -> int:
        encoding = FactoredEncoding(EncodingPlan(**plan))
        wire = encoding.encode(changes(4), {}, BASE, PARAMETERS).wire
        return len(wire[WIDE + "/left"])

    assert rank(tolerance=0.0, max_rank=4) == 3
    assert rank(tolerance=0.0, max_rank=1) == 1
    assert rank(tolerance=0.95, max_rank=4) == 1


@EACH_ENCODING
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6, 1e12])
def test_a_change_of_any_size_is_finite_on_the_wire(encoding: Encoding, size: float) -> None:
    factors = changes(5)[WIDE]
    assert isinstance(factors, FactoredDelta)
    deltas: dict[str, Delta] = {
        name: (np.random.default_rng(5).standard_normal(shape) * size).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    large = np.float32(size) * factors.left[:2]
    deltas[WIDE] = FactoredDelta(0.0, large, factors.right[:2])
    wire = encoding.encode(deltas, {}, BASE, PARAMETERS).wire
    assert all(np.isfinite(array).all() for array in wire.values())
    for name, change in encoding.decode(wire, PARAMETERS).items():
        exact = exactly(deltas[name], name)
        np.testing.assert_allclose(
            exactly(change, name), exact, atol=1e-2 * np.abs(exact).max(), rtol=0
        )


@EACH_ENCODING
def test_no_change_is_decoded_as_no_change(encoding: Encoding) -> None:
    nothing: dict[str, Delta] = {
        name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()
    }
    nothing[WIDE] = FactoredDelta.zero(*SHAPES[WIDE])
    encoded = encoding.encode(nothing, {}, BASE, PARAMETERS)
    for name, change in encoding.decode(encoded.wire, PARAMETERS).items():
        assert not exactly(change, name).any()
    assert not any(exactly(change, name).any() for name, change in encoded.residual.items())


@EACH_ENCODING
def test_the_arguments_are_left_as_they_are(encoding: Encoding) -> None:
    deltas, residual = changes(6), changes(7)
    base = {name: value.copy() for name, value in BASE.items()}
    encoding.encode(deltas, residual, base, PARAMETERS)
    for name in SHAPES:
        np.testing.assert_array_equal(base[name], BASE[name])
        for given_change, same in ((deltas, changes(6)), (residual, changes(7))):
            np.testing.assert_array_equal(
                exactly(given_change[name], name), exactly(same[name], name)
            )


@EACH_ENCODING
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (VECTOR, np.zeros(6, np.float32), r"bias has shape \(6,\), not \(7,\)"),
        (VECTOR, np.zeros((7, 1), np.float32), r"bias has shape \(7, 1\), not \(7,\)"),
        (WIDE, np.zeros((6, 15), np.float32), r"weight has shape \(6, 15\), not \(15, 6\)"),
        (WIDE, FactoredDelta.zero(6, 15), r"weight has shape \(6, 15\), not \(15, 6\)"),
        (KERNEL, FactoredDelta.zero(2, 6), r"kernel has shape \(2, 6\), not \(2, 3, 2\)"),
    ],
)
def test_a_change_of_another_shape_is_refused(
    encoding: Encoding, name: str, change: Delta, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encoding.encode(changes(1, **{name: change}), {}, BASE, PARAMETERS)


@EACH_ENCODING
def test_a_private_tensor_is_refused(encoding: Encoding) -> None:
    leaked = changes(1, embedding=np.zeros(3, np.float32), head=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="not shared by this federation: embedding, head"):
        encoding.encode(leaked, {}, BASE, PARAMETERS)


@EACH_ENCODING
def test_a_missing_change_is_refused(encoding: Encoding) -> None:
    few = {name: change for name, change in changes(1).items() if name not in (VECTOR, WIDE)}
    with pytest.raises(ValueError, match=r"missing: bias, wide\.weight"):
        encoding.encode(few, {}, BASE, PARAMETERS)


@EACH_ENCODING
def test_a_change_and_a_remainder_of_different_forms_are_refused(encoding: Encoding) -> None:
    factors, dense = changes(1)[WIDE], np.zeros(SHAPES[WIDE], np.float32)
    for change, left_out in ((factors, dense), (dense, factors)):
        with pytest.raises(ValueError, match="have different forms"):
            encoding.encode(changes(1, **{WIDE: change}), {WIDE: left_out}, BASE, PARAMETERS)


def test_the_plan_names_the_encoding_and_dense_is_always_taken() -> None:
    factored, dense = EncodingPlan(name="factored"), EncodingPlan(name="dense")
    assert encoding_for(factored).name == "factored"
    assert encoding_for(factored, "factored").name == "factored"
    assert encoding_for(factored, "dense").name == "dense"
    assert encoding_for(dense).name == encoding_for(dense, "dense").name == "dense"
    with pytest.raises(ValueError, match="takes dense and dense, not factored"):
        encoding_for(dense, "factored")


def test_a_dense_header_must_be_the_specifications() -> None:
    wire = DenseEncoding().encode(changes(1), {}, BASE, PARAMETERS).wire
    DenseEncoding().check_header(header_of(wire), PARAMETERS)
    halved = wire | {KERNEL: wire[KERNEL].astype(np.float16)}
    with pytest.raises(UnexpectedTensorsError) as refusal:
        DenseEncoding().check_header(header_of(halved), PARAMETERS)
    assert refusal.value.where == {
        "tensor": KERNEL,
        "expected": {"dtype": "F32", "shape": [2, 3, 2]},
        "found": {"dtype": "F16", "shape": [2, 3, 2]},
    }


@pytest.mark.parametrize(
    ("wire", "message", "where"),
    [
        (
            {"x": np.zeros(2, np.float32), "y": np.zeros(1, np.float32)},
            "tensor y is not shared by this federation",
            {"tensor": "y", "expected": ["w", "x"]},
        ),
        (
            {"x": np.zeros((2, 1), np.float32), "w": np.zeros((), np.float32)},
            r"tensor x is F32 \[2, 1\], not F32 \[2\]",
            {"tensor": "x"},
        ),
        ({"x": np.zeros(2, np.float32)}, "tensor w is missing", {"tensor": "w"}),
        ({}, "tensor w is missing", {"tensor": "w"}),
    ],
)
def test_the_first_difference_from_the_expected_tensors_is_named(
    wire: dict[str, Array], message: str, where: dict[str, Any]
) -> None:
    with pytest.raises(UnexpectedTensorsError, match=message) as refusal:
        check_tensors(header_of(wire), {"x": ("F32", (2,)), "w": ("F32", ())})
    assert {name: refusal.value.where.get(name) for name in where} == where


@EACH_ENCODING
def test_a_value_that_is_not_finite_is_refused(encoding: Encoding) -> None:
    wire = encoding.encode(changes(1), {}, BASE, PARAMETERS).wire
    poisoned = wire[KERNEL].copy()
    poisoned[1, 2, 0] = np.nan
    with pytest.raises(NonFiniteError) as refusal:
        check(encoding, wire | {KERNEL: poisoned})
    assert refusal.value.where["position"] == [1, 2, 0]
