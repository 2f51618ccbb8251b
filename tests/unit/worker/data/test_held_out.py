"""Examples that are kept apart: drawn by a seed, by class, never through a group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.data.held_out import hold_out
from worker.errors import DataError


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_each_class_gives_its_share(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    try:
        stay, held = hold_out(labels, None, fraction, seed, "fraction")
    except DataError:
        assert len(labels) * fraction < 1 or len(labels) < 2
        return
    assert np.array_equal(np.sort(np.concatenate([stay, held])), np.arange(len(labels)))
    for label, count in enumerate(counts):
        assert abs((labels[held] == label).sum() - count * fraction) <= 1 + 1e-6


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=12),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_no_group_lies_in_both(sizes: list[int], fraction: float, seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    stay, held = hold_out(np.zeros(len(groups), np.int64), groups, fraction, seed, "fraction")
    assert not set(groups[stay]) & set(groups[held])
    assert len(stay)
    assert len(held) >= min(fraction * len(groups), len(groups) - max(sizes))


def test_the_seed_decides() -> None:
    labels = np.arange(100) % 3
    first, again, other = (hold_out(labels, None, 0.2, seed, "")[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == 20


def test_too_few_are_named() -> None:
    labels = np.zeros(4, np.int64)
    with pytest.raises(DataError, match=r"^test_fraction of 0.1 leaves 4 examples here and 0 ther"):
        hold_out(labels, None, 0.1, 0, "test_fraction")
    with pytest.raises(DataError, match=r"^test_fraction needs two groups at least, found 1$"):
        hold_out(labels, labels, 0.5, 0, "test_fraction")
