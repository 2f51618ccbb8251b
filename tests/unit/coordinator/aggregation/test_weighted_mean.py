"""The weighted mean of dense updates, compared with exact fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.weighted_mean import WeightedMean
from shared.arrays import Array, digest_arrays
from shared.federation.specification import ParameterSpecification
from shared.tensors import codec
from shared.tensors.codec import StreamReader
from shared.tensors.file_header import NonFiniteError

LARGEST = float(np.finfo(np.float32).max)


def parameters(**shapes: list[int]) -> ParameterSpecification:
    return ParameterSpecification.model_validate(
        {
            "seed": 1,
            "tensors": [
                {"name": name, "shape": shape, "initialisation": [{"rows": shape[0]}]}
                for name, shape in shapes.items()
            ],
        }
    )


def float32(values: Sequence[float]) -> Array:
    return np.array(values, np.float32)


def add(
    mean: WeightedMean, num_examples: int, deltas: dict[str, Array], piece_bytes: int = 1 << 20
) -> None:
    """Adds an update as it would arrive: a file in pieces of some length."""
    content = codec.encode(deltas)
    reader = StreamReader()
    mean.add_examples(num_examples)
    for start in range(0, len(content), piece_bytes):
        for block in reader.feed(content[start : start + piece_bytes]):
            mean.add_block(num_examples, block)
    reader.finish()


def test_a_mean_computed_by_hand() -> None:
    mean = WeightedMean(parameters(weight=[1, 2], bias=[1]))
    add(mean, 3, {"weight": float32([[0.5, -1.25]]), "bias": float32([8])})
    add(mean, 1, {"weight": float32([[2.0, 0.75]]), "bias": float32([-4])})
    weights = mean.apply_to({"weight": float32([[1.0, 2.0]]), "bias": float32([0.5])})
    # (3 · 0.5 + 2) / 4 = 0.875; (3 · -1.25 + 0.75) / 4 = -0.75; (3 · 8 - 4) / 4 = 5
    assert digest_arrays(weights) == digest_arrays(
        {"weight": float32([[1.875, 1.25]]), "bias": float32([5.5])}
    )


def test_the_sum_is_not_rounded_to_float32_between_updates() -> None:
    mean = WeightedMean(parameters(weight=[1]))
    for value in (1e8, 1.0, -1e8):
        add(mean, 1, {"weight": float32([value])})
    weights = mean.apply_to({"weight": float32([0.0])})
    assert weights["weight"] == np.float32(1 / 3)


finite = st.floats(-1e6, 1e6, width=32)
updates = st.lists(
    st.tuples(st.integers(1, 10_000_000), st.lists(finite, min_size=3, max_size=3)),
    min_size=1,
    max_size=5,
)


@given(base=st.lists(finite, min_size=3, max_size=3), given_updates=updates)
@settings(max_examples=100, deadline=None)
def test_every_value_is_the_float32_nearest_to_the_exact_mean(
    base: list[float], given_updates: list[tuple[int, list[float]]]
) -> None:
    mean = WeightedMean(parameters(weight=[3]))
    for num_examples, values in given_updates:
        add(mean, num_examples, {"weight": float32(values)})
    found = mean.apply_to({"weight": float32(base)})["weight"]

    total = sum(num_examples for num_examples, _ in given_updates)
    for position, start in enumerate(base):
        exact = Fraction(start) + sum(n * Fraction(v[position]) for n, v in given_updates) / total
        half_a_step = Fraction(float(np.spacing(np.abs(found[position])))) / 2
        largest = max(abs(value) for value in [start, *(v[position] for _, v in given_updates)])
        float64_rounding = Fraction(largest) / 2**48
        assert abs(Fraction(float(found[position])) - exact) <= half_a_step + float64_rounding


@given(piece_bytes=st.integers(1, 400), seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_the_pieces_in_which_updates_arrive_do_not_change_a_bit(
    piece_bytes: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    shapes = {"a": (3, 5), "b": (7,)}
    sent = [
        {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(3)
    ]
    base = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    digests = set()
    for length in (1 << 20, piece_bytes):
        mean = WeightedMean(parameters(a=[3, 5], b=[7]))
        for num_examples, deltas in zip((30, 7, 11), sent, strict=True):
            add(mean, num_examples, deltas, length)
        digests.add(digest_arrays(mean.apply_to(base)))
    assert len(digests) == 1


def test_the_base_is_left_as_it_was() -> None:
    mean = WeightedMean(parameters(weight=[2]))
    add(mean, 1, {"weight": float32([1, 2])})
    base = {"weight": float32([5, 6])}
    base["weight"].flags.writeable = False
    weights = mean.apply_to(base)
    np.testing.assert_array_equal(weights["weight"], float32([6, 8]))
    np.testing.assert_array_equal(base["weight"], float32([5, 6]))


def test_a_sum_beyond_float32_is_refused_by_name() -> None:
    mean = WeightedMean(parameters(bias=[1], weight=[2]))
    add(mean, 1, {"bias": float32([1]), "weight": float32([0, LARGEST])})
    with pytest.raises(NonFiniteError, match="the aggregated tensor weight exceeds") as caught:
        mean.apply_to({"bias": float32([1]), "weight": float32([0, LARGEST])})
    assert caught.value.where == {"tensor": "weight"}


def test_large_updates_that_cancel_are_no_overflow() -> None:
    mean = WeightedMean(parameters(weight=[1]))
    add(mean, 10_000_000, {"weight": float32([LARGEST])})
    add(mean, 10_000_000, {"weight": float32([-LARGEST])})
    assert mean.apply_to({"weight": float32([0.25])})["weight"] == np.float32(0.25)


def test_a_round_without_updates_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no update was added"):
        WeightedMean(parameters(weight=[1])).apply_to({"weight": float32([1])})


@pytest.mark.parametrize("num_examples", [0, -1])
def test_an_update_without_examples_has_no_weight(num_examples: int) -> None:
    with pytest.raises(ValueError, match=f"an update of {num_examples} examples has no weight"):
        WeightedMean(parameters(weight=[1])).add_examples(num_examples)
