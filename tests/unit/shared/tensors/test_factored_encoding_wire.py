"""Wire tensors of the factored encoding: which are taken, and which refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.arrays import Array
from shared.tensors.factored_encoding import decode_factored
from shared.tensors.file_header import CodecError, NonFiniteError, UnexpectedTensorsError
from tests.support.factored_wire import (
    COLUMNS,
    MATRIX,
    ROWS,
    VECTOR,
    check,
    parameters,
    whole_vector,
)


def components_of(rank: int = 1, **changed: Array) -> dict[str, Array]:
    wire = {
        MATRIX + "/left": np.zeros((rank, ROWS), np.float16),
        MATRIX + "/right": np.zeros((rank, COLUMNS), np.float32),
        MATRIX + "/base_scale": np.array(0.0, np.float32),
    }
    return wire | whole_vector() | {MATRIX + "/" + name: value for name, value in changed.items()}


def test_a_matrix_may_come_whole() -> None:
    wire = whole_vector() | {
        MATRIX: np.ones((ROWS, COLUMNS), np.float32),
        MATRIX + "/scale": np.array(0.5, np.float32),
    }
    check(wire)
    whole = decode_factored(wire, parameters())[MATRIX]
    assert isinstance(whole, np.ndarray)
    np.testing.assert_array_equal(whole, np.full((ROWS, COLUMNS), 0.5))


@pytest.mark.parametrize("rank", [0, 1, COLUMNS])
def test_every_rank_up_to_the_shorter_side_is_taken(rank: int) -> None:
    check(components_of(rank))


@pytest.mark.parametrize(
    ("wire", "message", "where"),
    [
        (
            components_of(COLUMNS + 1),
            "left has 9 components",
            {"tensor": MATRIX + "/left", "expected": COLUMNS, "found": COLUMNS + 1},
        ),
        (
            components_of(2, right=np.zeros((1, COLUMNS), np.float32)),
            r"right is F32 \[1, 8\], not F32 \[2, 8\]",
            {
                "tensor": MATRIX + "/right",
                "expected": {"dtype": ["F32"], "shape": [2, COLUMNS]},
                "found": {"dtype": "F32", "shape": [1, COLUMNS]},
            },
        ),
        (
            components_of(left=np.zeros((1, ROWS), np.int64)),
            r"left is I64 \[1, 20\], not F32 or F16 or BF16 \[1, 20\]",
            {"tensor": MATRIX + "/left"},
        ),
        (
            components_of(left=np.zeros((1, COLUMNS), np.float16)),
            r"left is F16 \[1, 8\], not",
            {"tensor": MATRIX + "/left"},
        ),
        (
            components_of(left=np.array(1.0, np.float16)),
            r"left is F16 \[\], not",
            {"tensor": MATRIX + "/left"},
        ),
        (
            components_of(right=np.zeros((1, COLUMNS), np.float16)),
            r"right is F16 \[1, 8\], not F32 \[1, 8\]",
            {"tensor": MATRIX + "/right"},
        ),
        (
            components_of(base_scale=np.zeros(1, np.float32)),
            r"base_scale is F32 \[1\], not F32 \[\]",
            {"tensor": MATRIX + "/base_scale"},
        ),
        (
            components_of(scale=np.array(1.0, np.float32)),
            "scale is not shared by this federation",
            {"tensor": MATRIX + "/scale"},
        ),
        (
            components_of() | {VECTOR + "/left": np.zeros((1, 3), np.float16)},
            "output.bias/left is not shared by this federation",
            {"tensor": VECTOR + "/left"},
        ),
        (
            components_of() | {MATRIX: np.zeros((ROWS, COLUMNS), np.float16)},
            "output.weight/scale is missing",
            {"tensor": MATRIX + "/scale"},
        ),
        ({}, "output.weight/left is missing", {"tensor": MATRIX + "/left"}),
        (whole_vector(), "output.weight/left is missing", {"tensor": MATRIX + "/left"}),
    ],
)
def test_unexpected_wire_tensors_are_named(
    wire: dict[str, Array], message: str, where: dict[str, Any]
) -> None:
    with pytest.raises(UnexpectedTensorsError, match=message) as refusal:
        check(wire)
    assert {name: refusal.value.where.get(name) for name in where} == where


def test_both_forms_of_one_matrix_are_refused() -> None:
    whole = {
        MATRIX: np.zeros((ROWS, COLUMNS), np.float16),
        MATRIX + "/scale": np.array(1.0, np.float32),
    }
    with pytest.raises(UnexpectedTensorsError, match="base_scale is not shared"):
        check(components_of() | whole)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.0])
def test_a_scale_of_the_base_up_to_one_is_taken(scale: float) -> None:
    check(components_of(base_scale=np.array(scale, np.float32)))


@pytest.mark.parametrize("scale", [-1.5, np.nextafter(np.float32(1.0), np.float32(2.0)), 1e30])
def test_a_scale_of_the_base_beyond_one_is_refused(scale: float) -> None:
    with pytest.raises(CodecError, match="not between -1 and 1") as refusal:
        check(components_of(base_scale=np.array(scale, np.float32)))
    assert refusal.value.where == {
        "tensor": MATRIX + "/base_scale",
        "position": [],
        "expected": [-1, 1],
        "found": float(np.float32(scale)),
    }


@pytest.mark.parametrize("part", ["left", "right", "base_scale"])
def test_a_value_that_is_not_finite_is_refused_in_every_part(part: str) -> None:
    wire = components_of()
    poisoned = wire[MATRIX + "/" + part].copy()
    poisoned.reshape(-1)[-1] = np.inf
    with pytest.raises(NonFiniteError) as refusal:
        check(wire | {MATRIX + "/" + part: poisoned})
    assert refusal.value.where["tensor"] == MATRIX + "/" + part
