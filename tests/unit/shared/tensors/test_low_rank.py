"""Compression of products of factors, against numpy's decomposition of the whole matrix."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.tensors.low_rank import Components, FactoredDelta, Float32, Float64, decompose, rank_for

SEEDS = st.integers(0, 2**32 - 1)
EACH_PRODUCT = given(
    seed=SEEDS,
    components=st.integers(1, 7),
    rows=st.integers(1, 30),
    columns=st.integers(1, 12),
)


def factors(
    seed: int, components: int, rows: int, columns: int, decay: float = 0.5
) -> tuple[Float32, Float32]:
    """Random factors whose components fall off in size."""
    generator = np.random.default_rng(seed)
    sizes = decay ** np.arange(components)
    left = generator.standard_normal((components, rows)) * sizes[:, None]
    right = generator.standard_normal((components, columns))
    return left.astype(np.float32), right.astype(np.float32)


def product(left: Float32, right: Float32) -> Float64:
    """The matrix itself, in float64."""
    exact: Float64 = left.astype(np.float64).T @ right.astype(np.float64)
    return exact


def delta(seed: int, components: int, rows: int, columns: int, scale: float) -> FactoredDelta:
    return FactoredDelta(scale, *factors(seed, components, rows, columns))


@settings(max_examples=60, deadline=None)
@EACH_PRODUCT
def test_every_truncation_has_the_least_possible_error(
    seed: int, components: int, rows: int, columns: int
) -> None:
    """Eckart and Young (1936): no matrix of that rank is nearer."""
    left, right = factors(seed, components, rows, columns)
    matrix = product(left, right)
    exact = np.linalg.svd(matrix, compute_uv=False)
    found = decompose(left, right)
    for rank in range(len(found.singular_values) + 1):
        first, _ = found.split(rank)
        error = np.linalg.norm(matrix - product(first.left, first.right))
        assert error == pytest.approx(np.linalg.norm(exact[rank:]), abs=2e-6 * exact[0])


@settings(max_examples=60, deadline=None)
@EACH_PRODUCT
def test_components_are_orthogonal_and_largest_first(
    seed: int, components: int, rows: int, columns: int
) -> None:
    left, right = factors(seed, components, rows, columns)
    exact = np.linalg.svd(product(left, right), compute_uv=False)
    found = decompose(left, right)
    count = len(found.singular_values)
    assert count <= min(components, rows, columns)
    assert found.left.shape == (count, rows)
    assert found.right.shape == (count, columns)
    assert found.left.dtype == found.right.dtype == np.float32
    assert (np.diff(found.singular_values) <= 0.0).all()
    np.testing.assert_allclose(found.singular_values, exact[:count], atol=1e-7 * exact[0])
    np.testing.assert_allclose(product(found.right.T, found.right.T), np.eye(count), atol=1e-6)
    norms = np.linalg.norm(found.left.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, found.singular_values, atol=2e-6 * exact[0])


def test_components_that_depend_on_others_are_dropped() -> None:
    left, right = factors(1, 2, 20, 6)
    doubled = decompose(np.concatenate([left, left]), np.concatenate([right, right]))
    assert len(doubled.singular_values) == 2
    np.testing.assert_allclose(
        product(doubled.left, doubled.right), 2.0 * product(left, right), atol=1e-5
    )
    cancelled = decompose(np.concatenate([left, -left]), np.concatenate([right, right]))
    np.testing.assert_allclose(product(cancelled.left, cancelled.right), 0.0, atol=1e-6)


@pytest.mark.parametrize("components", [0, 1, 3])
def test_a_product_of_zeros_has_no_components(components: int) -> None:
    found = decompose(np.zeros((components, 5), np.float32), np.zeros((components, 4), np.float32))
    assert found.left.shape == (0, 5)
    assert found.right.shape == (0, 4)
    assert found.singular_values.shape == (0,)


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_the_size_of_the_factors_does_not_matter(size: float) -> None:
    left, right = factors(2, 3, 20, 6)
    large_right = (right * size).astype(np.float32)
    small_left = (left / size).astype(np.float32)
    found = decompose(small_left, large_right)
    np.testing.assert_allclose(
        product(found.left, found.right), product(small_left, large_right), atol=1e-5
    )


def test_more_rows_than_one_block_of_the_gram_matrix() -> None:
    left, right = factors(3, 4, 40_000, 5)
    exact = np.linalg.svd(product(left, right), compute_uv=False)
    np.testing.assert_allclose(decompose(left, right).singular_values, exact[:4], rtol=1e-7)


def test_the_matrix_itself_is_never_formed() -> None:
    rows, columns = 100_000, 100
    left, right = factors(4, 2, rows, columns)
    tracemalloc.start()
    try:
        decompose(left, right)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < rows * columns * 4 / 10


@pytest.mark.parametrize(
    ("singular_values", "tolerance", "max_rank", "rank"),
    [
        ([4.0, 3.0], 0.0, 9, 2),
        ([4.0, 3.0], 0.59, 9, 2),
        ([4.0, 3.0], 0.6, 9, 1),
        ([4.0, 3.0], 0.99, 9, 1),
        ([4.0, 3.0], 0.0, 1, 1),
        ([1.0, 0.0, 0.0], 0.0, 9, 1),
        ([2.0, 2.0, 2.0, 2.0], 0.5, 9, 3),
        ([2.0, 2.0, 2.0, 2.0], 0.5, 2, 2),
        ([0.0, 0.0], 0.0, 9, 0),
        ([], 0.0, 9, 0),
    ],
)
def test_the_rank_for_a_tolerance(
    singular_values: list[float], tolerance: float, max_rank: int, rank: int
) -> None:
    assert rank_for(np.array(singular_values, np.float64), tolerance, max_rank) == rank


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8),
    tolerance=st.floats(0.0, 0.999),
)
def test_the_rank_is_the_smallest_within_the_tolerance(
    values: list[float], tolerance: float
) -> None:
    singular_values = np.array(sorted(values, reverse=True))
    rank = rank_for(singular_values, tolerance, len(values))
    total = np.linalg.norm(singular_values)
    assert np.linalg.norm(singular_values[rank:]) <= (tolerance + 1e-7) * total
    assert rank > 0
    assert np.linalg.norm(singular_values[rank - 1 :]) > (tolerance - 1e-7) * total


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, first=st.integers(0, 4), second=st.integers(0, 4))
def test_the_sum_of_changes_is_the_change_of_their_sum(seed: int, first: int, second: int) -> None:
    base = np.random.default_rng(seed).standard_normal((9, 4)).astype(np.float32)
    a, b = delta(seed, first, 9, 4, -0.25), delta(seed + 1, second, 9, 4, 0.5)
    total = a.plus(b)
    assert total.rank == first + second
    assert total.scale == 0.25
    np.testing.assert_allclose(total.dense(base), a.dense(base) + b.dense(base), atol=1e-5)


def test_a_change_is_scale_times_base_plus_the_product() -> None:
    base = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    before = base.copy()
    change = FactoredDelta(
        0.5,
        np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]], np.float32),
        np.array([[10.0, 20.0], [30.0, 40.0]], np.float32),
    )
    dense = change.dense(base)
    assert dense.dtype == np.float32
    np.testing.assert_array_equal(dense, [[10.5, 21.0], [61.5, 82.0], [-7.5, -17.0]])
    np.testing.assert_array_equal(base, before)


def test_no_change_adds_nothing() -> None:
    base = np.ones((5, 3), np.float32)
    nothing = FactoredDelta.zero(5, 3)
    assert nothing.rank == 0
    np.testing.assert_array_equal(nothing.dense(base), np.zeros((5, 3)))
    change = delta(1, 2, 5, 3, -0.1)
    same = change.plus(nothing)
    assert (same.rank, same.scale) == (2, -0.1)
    np.testing.assert_array_equal(same.dense(base), change.dense(base))


@pytest.mark.parametrize("rank", [0, 1, 3, 9])
def test_the_two_parts_of_a_split_add_up_to_the_whole(rank: int) -> None:
    found = decompose(*factors(5, 3, 12, 6))
    first, rest = found.split(rank)
    assert len(first.left) == len(first.right) == len(first.singular_values) == min(rank, 3)
    base = np.zeros((12, 6), np.float32)
    total = first.as_delta().plus(rest.as_delta())
    np.testing.assert_allclose(total.dense(base), found.as_delta().dense(base), atol=1e-6)


def test_components_as_a_change_leave_the_base_out() -> None:
    components = Components(
        np.array([[3.0, 4.0]], np.float32), np.array([[1.0]], np.float32), np.array([5.0])
    )
    change = components.as_delta()
    assert change.scale == 0.0
    np.testing.assert_array_equal(change.dense(np.full((2, 1), 7.0, np.float32)), [[3.0], [4.0]])
