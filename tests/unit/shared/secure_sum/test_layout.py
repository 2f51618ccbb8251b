"""What is summed beside the values, and the size of it all."""

from __future__ import annotations

import numpy as np
import pytest

from shared.secure_sum.layout import METRICS, SumLayout
from shared.secure_sum.masks import RingVector
from tests.support.specifications import tiny_specification
from tests.support.sum_members import protected_specification

LAYOUT = SumLayout.of(protected_specification(), "train", 5, 1)


def test_a_federation_without_protection_has_none() -> None:
    with pytest.raises(ValueError, match="federation tiny has no protection"):
        SumLayout.of(tiny_specification(), "train", 5, 1)


def test_counts_are_read_back_as_sums_and_means() -> None:
    first = LAYOUT.counts_of(10, 1, {"accuracy_after": 0.25, "loss_after": 2.0, "own": 7.0})
    second = LAYOUT.counts_of(30, 0, {"accuracy_after": 0.75})
    examples, cut, metrics = LAYOUT.read_counts(first + second)
    assert (examples, cut) == (40, 1)
    assert metrics == {"accuracy_after": 0.5, "loss_after": 2.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_no_number_is_not_reported(value: float) -> None:
    *_, metrics = LAYOUT.read_counts(LAYOUT.counts_of(1, 0, {"accuracy_after": value}))
    assert metrics == {}


def test_no_metric_overflows_the_sum() -> None:
    total = LAYOUT.counts_of(1, 0, dict.fromkeys(METRICS["train"], 1e300)) * np.uint64(2000)
    *_, metrics = LAYOUT.read_counts(total)
    assert metrics == dict.fromkeys(METRICS["train"], 2.0**20)


def test_a_vector_comes_back_from_the_wire() -> None:
    counts = LAYOUT.counts_of(10, 1, {})
    vector = RingVector(counts, np.array([0, 1, 2**20 - 1, 5], np.uint32), 20)
    wire = LAYOUT.to_wire(vector)
    assert {name: ("U8", array.shape) for name, array in wire.items()} == LAYOUT.shapes
    again = LAYOUT.from_wire(wire)
    assert (again.counts == vector.counts).all()
    assert (again.values == vector.values).all()


def test_an_evaluation_has_no_values() -> None:
    layout = SumLayout.of(protected_specification(), "evaluate", 5, 1)
    assert layout.shapes == {"counts": ("U8", (48,)), "values": ("U8", (0,))}
