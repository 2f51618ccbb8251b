"""The mean of factored updates, against a dense mean in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.factored_mean import FactoredMean, PublishedDelta
from shared.arrays import Array, NamedArrays, digest_arrays
from shared.federation.specification import ParameterSpecification
from shared.tensors import codec
from shared.tensors.factored_encoding import Compression, Delta, decode_factored
from shared.tensors.file_header import NonFiniteError
from shared.tensors.low_rank import FactoredDelta
from shared.tensors.version_deltas import advance_weights

SHAPES = {"weight": (9, 4), "bias": (5,)}
EVERYTHING = Compression("float32", 0.0, 4096)
ONE_COMPONENT = Compression("float16", 0.0, 1)


def parameters(shapes: dict[str, tuple[int, ...]]) -> ParameterSpecification:
    return ParameterSpecification.model_validate(
        {
            "seed": 3,
            "tensors": [
                {"name": name, "shape": shape, "initialisation": [{"rows": shape[0], "bound": 0.5}]}
                for name, shape in shapes.items()
            ],
        }
    )


PARAMETERS = parameters(SHAPES)
BASE = PARAMETERS.initial_values()


def change(
    generator: np.random.Generator,
    rank: int | None,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
) -> dict[str, Delta]:
    """One client's changes, its matrix in ``rank`` factors, or dense for None."""
    changes: dict[str, Delta] = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    if rank is not None:
        rows, columns = shapes["weight"]
        changes["weight"] = FactoredDelta(
            float(generator.uniform(-1, 1)),
            generator.standard_normal((rank, rows)).astype(np.float32),
            generator.standard_normal((rank, columns)).astype(np.float32),
        )
    return changes


def dense_mean(
    updates: list[tuple[int, dict[str, Delta]]], base: NamedArrays
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Σ nᵢ·deltaᵢ / Σ nᵢ in float64, without factors."""
    total = sum(n for n, _ in updates)
    mean = {name: np.zeros(value.shape) for name, value in base.items()}
    for num_examples, changes in updates:
        for name, delta in changes.items():
            if isinstance(delta, FactoredDelta):
                product = delta.left.astype(np.float64).T @ delta.right.astype(np.float64)
                mean[name] += num_examples * (product + delta.scale * base[name]) / total
            else:
                mean[name] += num_examples * delta.astype(np.float64) / total
    return mean


def publish(
    updates: list[tuple[int, dict[str, Delta]]],
    compression: Compression,
    residual: NamedArrays | None = None,
    specification: ParameterSpecification = PARAMETERS,
) -> PublishedDelta:
    start = {name: array.copy() for name, array in (residual or {}).items()}
    mean = FactoredMean(specification, start, sum(n for n, _ in updates))
    for num_examples, changes in updates:
        mean.add(num_examples, changes)
    return mean.publish(compression)


def as_received(
    published: PublishedDelta,
    base: NamedArrays,
    specification: ParameterSpecification = PARAMETERS,
) -> dict[str, Array]:
    """What a receiver reads from the wire tensors, dense."""
    changes = decode_factored(published.wire, specification)
    return {
        name: delta.dense(base[name]) if isinstance(delta, FactoredDelta) else delta
        for name, delta in changes.items()
    }


rounds_of_updates = st.lists(
    st.tuples(st.integers(1, 10_000), st.none() | st.integers(0, 6)), min_size=1, max_size=6
)


@given(sizes=rounds_of_updates, seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_an_uncompressed_delta_is_the_dense_mean(
    sizes: list[tuple[int, int | None]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    updates = [(n, change(generator, rank)) for n, rank in sizes]
    expected = dense_mean(updates, BASE)
    received = as_received(publish(updates, EVERYTHING), BASE)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=0, atol=2e-5)


@given(
    sizes=rounds_of_updates,
    seed=st.integers(0, 1000),
    wire_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    max_rank=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_what_is_sent_and_what_is_left_out_are_together_the_dense_mean(
    sizes: list[tuple[int, int | None]], seed: int, wire_dtype: Any, max_rank: int
) -> None:
    generator = np.random.default_rng(seed)
    updates = [(n, change(generator, rank)) for n, rank in sizes]
    published = publish(updates, Compression(wire_dtype, 0.1, max_rank))
    received = as_received(published, BASE)
    for name, value in dense_mean(updates, BASE).items():
        np.testing.assert_allclose(
            received[name] + published.residual[name], value, rtol=0, atol=2e-5
        )


def test_more_components_than_a_batch_and_more_rows_than_a_block() -> None:
    shapes = {"weight": (8192 + 5, 3), "bias": (2,)}
    specification = parameters(shapes)
    base = specification.initial_values()
    generator = np.random.default_rng(1)
    updates = [(n, change(generator, 30, shapes)) for n in (5, 1, 9, 2, 4)]
    expected = dense_mean(updates, base)
    published = publish(updates, EVERYTHING, specification=specification)
    assert published.wire["weight/left"].shape == (3, 8192 + 5)
    received = as_received(published, base, specification)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("tolerance", "max_rank", "sent"), [(0.0, 2, 2), (0.0, 10, 4), (0.999, 10, 1)]
)
def test_the_rank_that_is_sent_is_bounded_by_tolerance_and_maximum(
    tolerance: float, max_rank: int, sent: int
) -> None:
    updates = [(1, change(np.random.default_rng(1), None))]
    published = publish(updates, Compression("float16", tolerance, max_rank))
    assert published.wire["weight/left"].shape == (sent, 9)
    assert published.wire["weight/left"].dtype == np.float16
    assert published.wire["weight/right"].shape == (sent, 4)


def test_what_is_sent_is_the_best_of_its_rank() -> None:
    updates = [(1, change(np.random.default_rng(1), None))]
    published = publish(updates, Compression("float32", 0.0, 2))
    singular_values = np.linalg.svd(dense_mean(updates, BASE)["weight"], compute_uv=False)
    assert np.linalg.norm(published.residual["weight"]) == pytest.approx(
        np.linalg.norm(singular_values[2:]), rel=1e-5
    )


def test_what_was_left_out_is_carried_into_the_next_delta() -> None:
    unchanged: dict[str, Delta] = {
        name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()
    }
    updates = [(2, change(np.random.default_rng(2), None)), (1, unchanged)]
    expected = dense_mean(updates, BASE)
    sent = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    published = publish(updates, ONE_COMPONENT)
    errors = []
    for _ in range(9):
        for name, value in as_received(published, BASE).items():
            sent[name] += value
        errors.append(max(float(np.abs(sent[n] - expected[n]).max()) for n in SHAPES))
        published = publish([(1, unchanged)], ONE_COMPONENT, published.residual)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-5


def next_version(wire: NamedArrays) -> dict[str, Array]:
    weights = {name: array.copy() for name, array in BASE.items()}
    advance_weights(weights, wire, PARAMETERS)
    return weights


def test_a_version_is_the_one_before_with_the_published_delta_bit_for_bit() -> None:
    generator = np.random.default_rng(4)
    updates = [(3, change(generator, 2)), (1, change(generator, None))]
    published = publish(updates, Compression("bfloat16", 0.0, 3))
    version = next_version(published.wire)

    wire, _ = codec.decode(codec.encode(published.wire))
    assert digest_arrays(next_version(wire)) == digest_arrays(version)
    left = wire["weight/left"].astype(np.float32)
    right, scale = wire["weight/right"], wire["weight/base_scale"]
    for row, column in np.ndindex(*SHAPES["weight"]):
        value = BASE["weight"][row, column] * (np.float32(1) + np.float32(scale))
        for component in range(len(left)):
            value = value + left[component, row] * right[component, column]
        assert value.dtype == np.float32
        assert version["weight"][row, column] == value
    whole = wire["bias"].astype(np.float32) * wire["bias/scale"]
    np.testing.assert_array_equal(version["bias"], BASE["bias"] + whole)


def test_the_same_updates_in_the_same_order_give_the_same_bits() -> None:
    digests = set()
    for _ in range(2):
        generator = np.random.default_rng(5)
        updates = [(n, change(generator, 3)) for n in (10, 20, 30)]
        published = publish(updates, ONE_COMPONENT)
        digests.add((digest_arrays(published.wire), digest_arrays(published.residual)))
    assert len(digests) == 1


def test_no_change_at_all_is_sent_as_no_components() -> None:
    unchanged: dict[str, Delta] = {
        "weight": FactoredDelta.zero(9, 4),
        "bias": np.zeros(5, np.float32),
    }
    published = publish([(1, unchanged)], ONE_COMPONENT)
    assert published.wire["weight/left"].shape == (0, 9)
    assert digest_arrays(next_version(published.wire)) == digest_arrays(BASE)


@pytest.mark.parametrize("columns", [2, 4, 16])
def test_a_mean_beyond_float32_is_refused_by_name(columns: int) -> None:
    largest = np.finfo(np.float32).max
    mean = FactoredMean(parameters({"weight": (30, columns)}), {}, 1)
    factors = (np.full((1, size), largest, np.float32) for size in (30, columns))
    mean.add(1, {"weight": FactoredDelta(0.0, *factors)})
    with pytest.raises(NonFiniteError) as refused:
        mean.publish(EVERYTHING)
    assert refused.value.where["tensor"] == "weight"


@pytest.mark.parametrize("total_examples", [0, -1])
def test_a_round_without_examples_has_no_mean(total_examples: int) -> None:
    with pytest.raises(ValueError, match="no update was added"):
        FactoredMean(PARAMETERS, {}, total_examples)
