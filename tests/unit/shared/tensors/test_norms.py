"""Norms, and bounds on changes that nothing within them can hide from."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.arrays import Array
from shared.federation.specification import ParameterSpecification
from shared.tensors import codec
from shared.tensors.norms import SquaredNorms, norm_of, squared_distance

SHAPES = {"w": (7, 4), "b": (5,)}
PARAMETERS = ParameterSpecification.model_validate(
    {
        "seed": 1,
        "tensors": [
            {"name": name, "shape": shape, "initialisation": [{"rows": shape[0]}]}
            for name, shape in SHAPES.items()
        ],
    }
)
BASE_NORMS = {"w": 3.0, "b": 2.0}


def squared_norms(wire: dict[str, Array], piece_bytes: int = 1 << 20) -> SquaredNorms:
    """Of a file that comes in pieces."""
    content = codec.encode(wire)
    reader, found = codec.StreamReader(), SquaredNorms()
    for start in range(0, len(content), piece_bytes):
        for block in reader.feed(content[start : start + piece_bytes]):
            found.add(block)
    return found


def drawn(seed: int, rank: int, dtype: Any) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {
        "w/left": generator.standard_normal((rank, 7)).astype(dtype),
        "w/right": generator.standard_normal((rank, 4)).astype(np.float32),
        "w/base_scale": np.array(-0.5, np.float32),
        "b": generator.standard_normal(5).astype(dtype),
        "b/scale": np.array(-2.0, np.float32),
    }


@given(
    seed=st.integers(0, 99),
    rank=st.integers(0, 4),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
    piece_bytes=st.integers(1, 400),
)
@settings(deadline=None)
def test_a_bound_counts_every_component_in_full_wherever_pieces_end(
    seed: int, rank: int, dtype: Any, piece_bytes: int
) -> None:
    wire = drawn(seed, rank, dtype)
    left, right = wire["w/left"].astype(np.float64), wire["w/right"].astype(np.float64)
    components = sum(
        np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(left, right, strict=True)
    )
    expected = np.hypot(0.5 * 3.0 + components, 2.0 * np.linalg.norm(wire["b"].astype(np.float64)))
    found = squared_norms(wire, piece_bytes).bound(PARAMETERS, BASE_NORMS)
    assert found == pytest.approx(expected, rel=1e-12)


def test_components_that_cancel_count_twice() -> None:
    wire = drawn(1, 1, np.float32)
    one = squared_norms(wire | {"b/scale": np.array(0.0, np.float32)})
    for part, sign in (("w/left", 1.0), ("w/right", -1.0)):
        wire[part] = np.concatenate([wire[part], np.float32(sign) * wire[part]])
    two = squared_norms(wire | {"b/scale": np.array(0.0, np.float32)})
    without_base = BASE_NORMS | {"w": 0.0}
    assert two.bound(PARAMETERS, without_base) == pytest.approx(
        2.0 * one.bound(PARAMETERS, without_base)
    )


@pytest.mark.parametrize("size", [1e-45, 1.0, 3e38])
def test_the_bound_of_a_dense_change_is_its_norm(size: float) -> None:
    wire = {name: np.full(shape, size, np.float32) for name, shape in SHAPES.items()}
    found = squared_norms(wire)
    norm = float(np.float32(size)) * np.sqrt(33)
    assert found.bound(PARAMETERS, BASE_NORMS) == pytest.approx(norm)
    assert norm_of(wire) == pytest.approx(norm)
    assert found.norms() == pytest.approx(
        {n: float(np.float32(size)) * np.sqrt(a.size) for n, a in wire.items()}
    )


def test_a_distance_does_not_overflow() -> None:
    largest = np.full((2, 3), np.finfo(np.float32).max)
    assert squared_distance(largest, -largest) == pytest.approx(6 * (2 * float(largest[0, 0])) ** 2)
