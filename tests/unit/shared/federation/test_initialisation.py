"""Version 0, bit for bit: the protocol's formula evaluated by hand, and the values' bounds."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.federation.initialisation import TensorSpecification

WORD = (1 << 64) - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)
SEEDS = st.integers(0, (1 << 63) - 1)


def philox_block(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x64-10 (Salmon et al., SC 2011): four words of output for one counter."""
    first, second, third, fourth = counter
    low_key, high_key = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * first, 0xCA5A826395121157 * third
        first, second, third, fourth = (
            (right >> 64) ^ second ^ low_key,
            right & WORD,
            (left >> 64) ^ fourth ^ high_key,
            left & WORD,
        )
        low_key = (low_key + 0x9E3779B97F4A7C15) & WORD
        high_key = (high_key + 0xBB67AE8584CAA73B) & WORD
    return first, second, third, fourth


def words(seed: int, name: str, count: int) -> list[int]:
    """The protocol's 32-bit words; the generator counts on before each block of output."""
    key = struct.unpack("<2Q", hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16])
    stream = b""
    counter = 0
    while len(stream) < 4 * count:
        counter += 1
        stream += struct.pack("<4Q", *philox_block((counter, 0, 0, 0), key))
    return list(struct.unpack(f"<{count}I", stream[: 4 * count]))


def float32(number: float) -> float:
    """Rounded once: a sum or product of two float32 numbers is rounded correctly from float64."""
    rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return rounded


def value(word: int, centre: float, bound: float) -> float:
    uniform = (word >> 8) / 2**23 - 1.0
    return float32(float32(uniform * float32(bound)) + float32(centre))


def tensor(
    shape: tuple[int, ...], *ranges: dict[str, Any], name: str = "trunk.weight"
) -> TensorSpecification:
    return TensorSpecification.model_validate(
        {"name": name, "shape": shape, "initialisation": ranges}
    )


def test_the_generator_written_here_is_philox() -> None:
    """The known answers of Random123, the authors' library."""
    assert philox_block((0, 0, 0, 0), (0, 0)) == (
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    )
    assert philox_block((WORD,) * 4, (WORD, WORD)) == (
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    name=st.from_regex(r"[a-z0-9_]{1,9}(\.[a-z0-9_]{1,9})?", fullmatch=True),
    rows=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.floats(-4.0, 4.0),
            st.floats(0.0, 4.0),
        ),
        min_size=1,
        max_size=3,
    ),
    columns=st.integers(1, 5),
)
def test_every_value_is_the_protocols_formula_bit_for_bit(
    seed: int, name: str, rows: list[tuple[int, float, float]], columns: int
) -> None:
    ranges = [{"rows": count, "centre": centre, "bound": bound} for count, centre, bound in rows]
    num_rows = sum(count for count, _, _ in rows)
    found = tensor((num_rows, columns), *ranges, name=name).initial_value(seed)
    drawn = iter(words(seed, name, num_rows * columns))
    expected = [
        value(next(drawn), centre, bound)
        for count, centre, bound in rows
        for _ in range(count * columns)
    ]
    assert found.dtype == np.float32
    assert found.tobytes() == np.array(expected, "<f4").tobytes()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 33])
def test_any_number_of_elements_is_a_start_of_the_same_stream(count: int) -> None:
    found = tensor((count,), {"rows": count, "bound": 1.0}).initial_value(3)
    drawn = words(3, "trunk.weight", count)
    np.testing.assert_array_equal(found, [value(word, 0.0, 1.0) for word in drawn])


@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 2, 3, 1)])
def test_rows_are_those_of_the_first_axis(shape: tuple[int, ...]) -> None:
    found = tensor(
        shape,
        {"rows": 2, "centre": 1.0},
        {"rows": 3, "bound": 0.5},
        {"rows": 1, "centre": -2.0, "bound": 0.25},
    ).initial_value(11)
    assert found.shape == shape
    assert (found[:2] == 1.0).all()
    assert (np.abs(found[2:5]) <= 0.5).all()
    assert (found[2:5] != 0.0).any()
    assert (np.abs(found[5:] + 2.0) <= 0.25).all()
    assert (found[5:] != -2.0).any()


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    centre=st.floats(-(2.0**100), 2.0**100, width=32),
    bound=st.floats(0.0, 2.0**100, width=32),
)
def test_values_lie_within_the_bound_around_the_centre(
    seed: int, centre: float, bound: float
) -> None:
    found = tensor((50,), {"rows": 50, "centre": centre, "bound": bound}).initial_value(seed)
    assert found.min() >= np.float32(centre - bound)
    assert found.max() <= np.float32(centre + bound)


def test_without_a_bound_every_value_is_the_centre() -> None:
    found = tensor((4, 3), {"rows": 4, "centre": 0.1}).initial_value(1)
    assert (found == np.float32(0.1)).all()
    zeros = tensor((4,), {"rows": 4}).initial_value(1)
    assert zeros.tobytes() == bytes(16)


def test_values_are_spread_evenly() -> None:
    found = tensor((100_000,), {"rows": 100_000, "centre": 1.0, "bound": 2.0}).initial_value(5)
    counts, _ = np.histogram(found, bins=10, range=(-1.0, 3.0))
    assert counts.sum() == 100_000
    assert np.abs(counts - 10_000).max() < 500
    assert abs(found.mean(dtype=np.float64) - 1.0) < 0.02


def test_seeds_and_names_have_streams_of_their_own() -> None:
    values = [
        tensor((8,), {"rows": 8, "bound": 1.0}, name=name).initial_value(seed).tobytes()
        for seed in (0, 1, (1 << 63) - 1)
        for name in ("a", "b", "a.a")
    ]
    assert len(set(values)) == len(values)


def test_each_call_returns_an_array_of_its_own() -> None:
    specification = tensor((3,), {"rows": 3, "bound": 1.0})
    specification.initial_value(1)[:] = 0.0
    assert specification.initial_value(1).any()


@pytest.mark.parametrize(
    ("shape", "ranges", "message"),
    [
        ((2, 0), [{"rows": 2}], r"x: every size of shape \[2, 0\] must be positive"),
        ((-2,), [{"rows": 2}], r"x: every size of shape \[-2\] must be positive"),
        ((3, 2), [{"rows": 2}], "x: the initialisation describes 2 rows of 3"),
        ((3,), [{"rows": 2}, {"rows": 2}], "x: the initialisation describes 4 rows of 3"),
        ((1 << 16, (1 << 15) + 1), [{"rows": 1 << 16}], "x: more than 2147483648 elements"),
        ((1 << 40, 1 << 40), [{"rows": 1 << 40}], "less than or equal to 2147483647"),
        ((), [{"rows": 1}], "at least 1 item"),
        ((1,) * 9, [{"rows": 1}], "at most 8 items"),
        ((1,), [], "at least 1 item"),
        ((2,), [{"rows": 2}, {"rows": 0}], "greater than 0"),
        ((2,), [{"rows": 2, "bound": -0.5}], "greater than or equal to 0"),
        ((2,), [{"rows": 2, "bound": float("inf")}], "finite number"),
        ((2,), [{"rows": 2, "centre": float("nan")}], "finite number"),
        ((2,), [{"rows": 2, "mean": 0.0}], "Extra inputs are not permitted"),
    ],
)
def test_a_malformed_tensor_is_refused(
    shape: tuple[int, ...], ranges: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        tensor(shape, *ranges, name="x")


@pytest.mark.parametrize("name", ["", "A", "a..b", ".a", "a.", "a/b", "a:b", "a b", "ä", "a\n"])
def test_a_name_that_a_wire_name_could_be_confused_with_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        tensor((1,), {"rows": 1}, name=name)


@pytest.mark.parametrize(
    "part",
    [
        {"rows": 2, "bound": 1e39},
        {"rows": 2, "centre": -1e39},
        {"rows": 2, "centre": FLOAT32_MAX, "bound": FLOAT32_MAX},
    ],
    ids=["bound", "centre", "together"],
)
def test_initial_values_that_float32_cannot_hold_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tensor((2,), part)
