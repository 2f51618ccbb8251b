"""Versions rebuilt from deltas: the protocol's arithmetic, one float32 operation at a time."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.arrays import Array, NamedArrays
from shared.federation.specification import EncodingPlan, ParameterSpecification
from shared.tensors import codec
from shared.tensors.encodings import FactoredEncoding
from shared.tensors.file_header import UnexpectedTensorsError
from shared.tensors.low_rank import FactoredDelta
from shared.tensors.version_deltas import advance_weights, split_chain
from tests.support.chains import chain_file

MATRIX, VECTOR, KERNEL = "output.weight", "output.bias", "kernel"
WIRE_DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
SEEDS = st.integers(0, 2**32 - 1)


def parameters(rows: int, columns: int) -> ParameterSpecification:
    shapes = {MATRIX: (rows, columns), VECTOR: (5,), KERNEL: (2, 1, 3)}
    return ParameterSpecification.model_validate(
        {
            "seed": 9,
            "tensors": [
                {
                    "name": name,
                    "shape": shape,
                    "initialisation": [{"rows": shape[0], "bound": 1.0}],
                }
                for name, shape in shapes.items()
            ],
        }
    )


def random_delta(
    specification: ParameterSpecification, seed: int, rank: int, wire_dtype: Any, whole: bool
) -> dict[str, Array]:
    """A published delta: the matrix in components, or whole like the others."""
    generator = np.random.default_rng(seed)
    wire = {}
    for tensor in specification.tensors:
        name, shape = tensor.name, tensor.shape
        if name == MATRIX and not whole:
            rows, columns = shape
            wire[name + "/left"] = generator.uniform(-1, 1, (rank, rows)).astype(wire_dtype)
            wire[name + "/right"] = generator.standard_normal((rank, columns), np.float32)
            wire[name + "/base_scale"] = np.array(generator.uniform(-1, 1), np.float32)
        else:
            wire[name] = generator.uniform(-1, 1, shape).astype(wire_dtype)
            wire[name + "/scale"] = np.array(generator.lognormal(), np.float32)
    return wire


def advanced(
    weights: NamedArrays, delta: NamedArrays, specification: ParameterSpecification
) -> dict[str, Array]:
    """The next version's weights, in arrays of their own."""
    copies = {name: array.copy() for name, array in weights.items()}
    advance_weights(copies, delta, specification)
    return copies


def next_value(before: Array, delta: dict[str, Array], name: str) -> Array:
    """The protocol's section "Deltas between versions", element by element."""
    after = np.empty_like(before)
    for index in np.ndindex(before.shape):
        x = np.float32(before[index])
        if name in delta:
            after[index] = x + np.float32(delta[name + "/scale"]) * np.float32(delta[name][index])
            continue
        row, column = index
        x = x * (np.float32(1.0) + np.float32(delta[name + "/base_scale"]))
        for left, right in zip(delta[name + "/left"], delta[name + "/right"], strict=True):
            x = x + np.float32(left[row]) * np.float32(right[column])
        after[index] = x
    return after


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    rank=st.integers(0, 4),
    wire_dtype=st.sampled_from(WIRE_DTYPES),
    whole=st.booleans(),
)
def test_every_bit_is_that_of_a_plain_loop(
    seed: int, rows: int, columns: int, rank: int, wire_dtype: Any, whole: bool
) -> None:
    specification = parameters(rows, columns)
    before = specification.initial_values()
    delta = random_delta(specification, seed, rank, wire_dtype, whole)
    after = advanced(before, delta, specification)
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert value.dtype == np.float32
        assert value.tobytes() == next_value(before[name], delta, name).tobytes()


@pytest.mark.parametrize(
    ("rows", "columns"), [(70_000, 2), (2, 70_000), (3, (1 << 17) + 1)], ids=str
)
def test_a_matrix_of_several_blocks_is_no_different(rows: int, columns: int) -> None:
    specification = parameters(rows, columns)
    before = specification.initial_values()
    delta = random_delta(specification, 1, 2, np.float16, whole=False)
    after = advanced(before, delta, specification)[MATRIX]
    scale = np.float32(1.0) + np.float32(delta[MATRIX + "/base_scale"])
    expected = before[MATRIX] * scale
    for left, right in zip(delta[MATRIX + "/left"], delta[MATRIX + "/right"], strict=True):
        expected = expected + left.astype(np.float32)[:, None] * right[None, :]
    assert after.tobytes() == expected.tobytes()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (70_000, 2)], ids=str)
def test_it_says_by_how_much_the_weights_moved(rows: int, columns: int, whole: bool) -> None:
    specification = parameters(rows, columns)
    before = specification.initial_values()
    after = {name: array.copy() for name, array in before.items()}
    delta = random_delta(specification, 1, 2, np.float16, whole)
    moved = advance_weights(after, delta, specification)
    squares = (np.square(after[n].astype(np.float64) - before[n]).sum() for n in before)
    assert moved == pytest.approx(np.sqrt(sum(squares)))


def test_products_are_rounded_before_they_are_added() -> None:
    """A fused multiply-add would keep the product's low bits: 2⁻²⁴ is left after −1."""
    specification = parameters(1, 1)
    almost_one = np.float32(1.0 + 2.0**-12)
    delta = random_delta(specification, 1, 0, np.float32, whole=False) | {
        MATRIX + "/left": np.array([[almost_one]]),
        MATRIX + "/right": np.array([[almost_one]]),
        MATRIX + "/base_scale": np.array(0.0, np.float32),
    }
    before = specification.initial_values() | {MATRIX: np.array([[-1.0]], np.float32)}
    assert advanced(before, delta, specification)[MATRIX] == 2.0**-11


def test_components_are_added_in_their_order() -> None:
    specification = parameters(1, 1)
    delta = random_delta(specification, 1, 0, np.float32, whole=False) | {
        MATRIX + "/left": np.array([[1.0], [1.0], [-1.0]], np.float16),
        MATRIX + "/right": np.array([[1.0], [2.0**25], [2.0**25]], np.float32),
        MATRIX + "/base_scale": np.array(-1.0, np.float32),
    }
    before = specification.initial_values()
    assert advanced(before, delta, specification)[MATRIX] == 0.0
    delta[MATRIX + "/left"] = delta[MATRIX + "/left"][::-1]
    delta[MATRIX + "/right"] = delta[MATRIX + "/right"][::-1]
    assert advanced(before, delta, specification)[MATRIX] == 1.0


@pytest.mark.parametrize("whole", [True, False])
def test_the_next_version_takes_the_place_of_the_one_before(whole: bool) -> None:
    """A coordinator and a worker hold large weights once, and a delta may be used again."""
    specification = parameters(4, 3)
    weights = specification.initial_values()
    given = dict(weights)
    delta = random_delta(specification, 2, 2, np.float16, whole)
    delta_before = {name: array.copy() for name, array in delta.items()}
    expected = advanced(weights, delta, specification)
    advance_weights(weights, delta, specification)
    for name, array in weights.items():
        assert array is given[name]
        assert array.tobytes() == expected[name].tobytes()
    for name, array in delta.items():
        np.testing.assert_array_equal(array, delta_before[name])


def test_a_delta_that_an_encoding_wrote_leads_to_the_changed_weights() -> None:
    specification = parameters(30, 6)
    before = specification.initial_values()
    generator = np.random.default_rng(1)
    deltas: dict[str, Any] = {
        name: generator.standard_normal(value.shape).astype(np.float32)
        for name, value in before.items()
    }
    deltas[MATRIX] = FactoredDelta(
        -0.1,
        generator.standard_normal((3, 30)).astype(np.float32),
        generator.standard_normal((3, 6)).astype(np.float32),
    )
    plan = EncodingPlan(wire_dtype="float32", tolerance=0.0)
    wire = FactoredEncoding(plan).encode(deltas, {}, before, specification).wire
    after = advanced(before, wire, specification)
    for name, value in before.items():
        change = deltas[name].dense(value) if name == MATRIX else deltas[name]
        np.testing.assert_allclose(after[name], value + change, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, versions=st.sets(st.integers(1, 10**6), max_size=4))
def test_a_chain_of_deltas_survives_its_file(seed: int, versions: set[int]) -> None:
    specification = parameters(4, 3)
    deltas = {
        version: random_delta(specification, seed + version, 2, np.float16, whole=False)
        for version in versions
    }
    arrays, _ = codec.decode(chain_file(deltas))
    chain = split_chain(arrays)
    assert list(chain) == sorted(versions)
    for version, delta in deltas.items():
        assert chain[version].keys() == delta.keys()
        for name, array in delta.items():
            np.testing.assert_array_equal(chain[version][name], array)


def test_a_chain_names_the_version_that_each_delta_leads_to() -> None:
    array = np.zeros(1)
    arrays, _ = codec.decode(chain_file({7: {"x/scale": array}, 8: {"x": array}}))
    assert arrays == {"7:x/scale": array, "8:x": array}


def test_versions_are_in_the_order_of_numbers_not_of_text() -> None:
    arrays = {f"{version}:x": np.array(version) for version in (10, 9, 100, 1)}
    assert list(split_chain(arrays)) == [1, 9, 10, 100]


@pytest.mark.parametrize(
    "name", ["x", "x/left", ":x", "-1:x", "+1:x", "1.0:x", " 1:x", "٣:x", "²:x", "one:x", ""]
)
def test_a_name_without_a_version_is_refused(name: str) -> None:
    with pytest.raises(UnexpectedTensorsError, match="names no version") as refusal:
        split_chain({"1:x": np.zeros(1), name: np.zeros(1)})
    assert refusal.value.where == {"tensor": name}


def test_a_version_too_long_for_a_number_is_refused() -> None:
    with pytest.raises(UnexpectedTensorsError):
        split_chain({"9" * 5000 + ":x": np.zeros(1)})
