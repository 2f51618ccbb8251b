"""Robust rules against plain oracles, and against clients that send garbage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coordinator.aggregation.robust_rules import (
    SquaredDistances,
    choose_multi_krum,
    clip_factor,
    coordinate_median,
    mean,
    trimmed_mean,
)
from shared.tensors.low_rank import Float64

LARGEST = np.finfo(np.float32).max
STACKS = st.tuples(st.integers(1, 9), st.integers(1, 6)).flatmap(
    lambda shape: arrays(
        np.float64, shape, elements=st.floats(-float(LARGEST), float(LARGEST), width=32)
    )
)


@given(STACKS)
@settings(deadline=None)
def test_the_median_is_the_middle_value_of_every_coordinate(stack: Float64) -> None:
    n = len(stack)
    for found, column in zip(coordinate_median(stack), stack.T, strict=True):
        ordered = sorted(column)
        assert found == (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@given(STACKS, st.integers(0, 4))
@settings(deadline=None)
def test_a_trimmed_mean_leaves_out_both_ends_of_every_coordinate(stack: Float64, k: int) -> None:
    if 2 * k >= len(stack):
        with pytest.raises(ValueError, match="cannot be left out"):
            trimmed_mean(stack, k)
        return
    expected = [np.mean(sorted(column)[k : len(column) - k]) for column in stack.T]
    scale = max(float(np.abs(stack).max()), 1.0)
    np.testing.assert_allclose(trimmed_mean(stack.copy(), k), expected, rtol=0, atol=1e-14 * scale)


def test_a_mean_leaves_out_updates_of_no_weight() -> None:
    stack = np.array([[1.0, 2.0], [np.finfo(np.float32).max, 0.0], [4.0, -1.0]])
    np.testing.assert_allclose(mean(stack, [3, 0, 1]), [1.75, 1.25])
    with pytest.raises(ValueError, match="no update was added"):
        mean(stack, [0, 0, 0])


@pytest.mark.parametrize("rule", [coordinate_median, lambda stack: trimmed_mean(stack, 2)])
def test_the_order_of_clients_changes_no_bit(rule: Callable[[Float64], Float64]) -> None:
    generator = np.random.default_rng(1)
    stack = generator.standard_normal((7, 50))
    expected = rule(stack.copy())
    for _ in range(5):
        np.testing.assert_array_equal(rule(generator.permutation(stack, axis=0)), expected)


@given(st.integers(0, 1000), st.integers(1, 2), st.integers(0, 3), st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_multi_krum_chooses_what_its_definition_says(
    seed: int, f: int, more: int, block: int
) -> None:
    n = 2 * f + 3 + more
    stack = np.random.default_rng(seed).standard_normal((n, 7))
    distances = SquaredDistances(n)
    for start in range(0, 7, block):
        distances.add(stack[:, start : start + block])
    scores = []
    for i in range(n):
        others = sorted(float(((stack[i] - stack[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(others[: n - f - 2]))
    expected = sorted(sorted(range(n), key=lambda i: scores[i])[: n - f - 2])
    assert choose_multi_krum(distances.matrix, f) == expected


def test_multi_krum_is_refused_with_too_few_clients() -> None:
    with pytest.raises(
        ValueError, match="against 2 hostile clients needs at least 7 updates, not 6"
    ):
        choose_multi_krum(np.zeros((6, 6)), 2)


def test_equal_scores_are_decided_by_order() -> None:
    assert choose_multi_krum(np.zeros((6, 6)), 1) == [0, 1, 2]


ATTACKS: dict[str, Callable[[np.random.Generator, Float64], Float64]] = {
    "huge": lambda generator, honest: np.full_like(honest, float(LARGEST)),
    "sign-flipped": lambda generator, honest: -20.0 * honest,
    "random": lambda generator, honest: 100.0 * generator.standard_normal(honest.shape),
}


def _krum_mean(stack: Float64) -> Float64:
    distances = SquaredDistances(len(stack))
    distances.add(stack)
    mean: Float64 = stack[choose_multi_krum(distances.matrix, 3)].mean(axis=0)
    return mean


RULES: dict[str, Callable[[Float64], Float64]] = {
    "median": coordinate_median,
    "trimmed-mean": lambda stack: trimmed_mean(stack, 3),
    "multi-krum": _krum_mean,
    "mean": lambda stack: stack.mean(axis=0),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", RULES)
def test_least_squares_survives_three_hostile_clients_of_twelve_by_every_rule_but_the_mean(
    rule: str, attack: str
) -> None:
    generator = np.random.default_rng(7)
    wanted = generator.standard_normal(8)
    data = []
    for _ in range(12):
        features = generator.standard_normal((60, 8))
        data.append((features, features @ wanted + 0.1 * generator.standard_normal(60)))
    found = np.zeros(8)
    for _ in range(40):
        stack = np.stack([0.2 * x.T @ (y - x @ found) / len(y) for x, y in data])
        for client in (0, 5, 11):
            stack[client] = ATTACKS[attack](generator, stack[client])
        found = np.clip(found + RULES[rule](stack), -1e30, 1e30)
    error = np.linalg.norm(found - wanted)
    if rule == "mean":
        assert error > 1.0
    else:
        assert error < 0.1


@given(st.floats(0.0, 1e80), st.floats(1e-6, 1e6))
def test_a_clipped_norm_is_the_largest_allowed(norm: float, largest: float) -> None:
    factor = clip_factor(norm, largest)
    assert 0.0 < factor <= 1.0
    assert norm * factor == pytest.approx(min(norm, largest))
    assert (factor == 1.0) == (norm <= largest)
