"""No rule moves the weights by more than the cap, whatever the clients send."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import AggregationFailed
from shared.arrays import Array, NamedArrays, digest_arrays
from shared.federation.specification import FederationSpecification
from tests.support.changes import RULES
from tests.support.memory_rounds import RoundResult, SentUpdate, aggregate_in_memory
from tests.support.specifications import tiny_specification

MATRIX, BIAS = "hypernetwork.output.weight", "hypernetwork.output.bias"
SHAPES = {MATRIX: (12, 5), BIAS: (7,)}
NUM_CLIENTS = 7
CAP = 5.0
LARGEST = float(np.finfo(np.float32).max)
DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bf16": ml_dtypes.bfloat16}


def specified(encoding: Any, rule: str, **policy: Any) -> FederationSpecification:
    policy = {"max_relative_norm": None} | policy
    document = tiny_specification(encoding=encoding, **policy).model_dump(mode="json")
    document["parameters"]["tensors"] = [
        {"name": name, "shape": shape, "initialisation": [{"rows": shape[0], "bound": 0.5}]}
        for name, shape in SHAPES.items()
    ]
    document["aggregation"] = RULES.get(rule, rule)
    return FederationSpecification.of_record(document)


def factored(rank: int = 64, dtype: str = "float16", tolerance: float = 0.01) -> dict[str, Any]:
    return {
        "name": "factored",
        "wire_dtype": dtype,
        "publish_max_rank": rank,
        "publish_tolerance": tolerance,
    }


def norm(arrays: NamedArrays) -> float:
    return float(np.sqrt(sum(np.square(a.astype(np.float64)).sum() for a in arrays.values())))


def moved(base: NamedArrays, result: RoundResult) -> float:
    return norm({n: result.weights[n].astype(np.float64) - base[n] for n in base})


def update(
    left: Array, right: Array, base_scale: float = 0.0, bias: Array | None = None
) -> SentUpdate:
    wire = {
        MATRIX + "/left": left,
        MATRIX + "/right": np.asarray(right, np.float32),
        MATRIX + "/base_scale": np.array(base_scale, np.float32),
        BIAS: np.zeros(7, left.dtype) if bias is None else bias,
        BIAS + "/scale": np.array(1.0, np.float32),
    }
    return SentUpdate(wire, "factored")


def honest(seed: int) -> SentUpdate:
    """Of norm 0.6 or so."""
    generator = np.random.default_rng(seed)
    left, right = generator.standard_normal((1, 12)), generator.standard_normal((1, 5))
    return update((0.05 * left).astype(np.float32), right, -0.01)


def cancelling(size: float) -> SentUpdate:
    """Two products of ``size``² each, of which float64 leaves nothing, and float32 a part."""
    generator = np.random.default_rng(1)
    left = (size * generator.uniform(0.5, 1.0, (1, 12))).astype(np.float32)
    right = (size * generator.uniform(0.5, 1.0, (1, 5))).astype(np.float32)
    return update(np.concatenate([left, left]), np.concatenate([right, -right]))


def rounded_apart(size: float) -> SentUpdate:
    """L₁ᵀR₁ + L₂ᵀR₂ ≈ 0 of thirds that no binary number is: what is left depends on rounding."""
    thirds = np.full((1, 12), size / 3, np.float32)
    right = np.full((1, 5), size, np.float32)
    left = np.concatenate([thirds, thirds, np.full((1, 12), size, np.float32)])
    return update(left, np.concatenate([right, right, right * np.float32(-2 / 3)]))


@pytest.mark.parametrize("rule", ["mean", *RULES])
@pytest.mark.parametrize("size", [1e3, 1e10, 1e19, 1e30, 3e38])
@pytest.mark.parametrize("attack", [cancelling, rounded_apart])
def test_components_that_cancel_do_not_pass_a_cap(attack: Any, size: float, rule: str) -> None:
    """In float32 two of size 1e10 moved a mean under a cap of 5 by 1.4e12."""
    specification = specified(factored(), rule, max_update_norm=CAP, minimum_updates=7)
    base = specification.parameters.initial_values()
    sent = [attack(size) if seed == 0 else honest(seed) for seed in range(NUM_CLIENTS)]
    result = aggregate_in_memory(specification, base, sent)
    assert moved(base, result) <= CAP
    assert moved(base, result) > 0.01, "the honest ones are heard"


@pytest.mark.parametrize("size", [1e3, 2e6, 1e19, 3e38])
def test_multi_krum_averages_what_it_compared(size: float) -> None:
    """In float32 the components of two clients, of size 2e6, moved the weights by 158,238."""
    specification = specified(factored(), "multi-krum", minimum_updates=7)
    base = specification.parameters.initial_values()
    sent = [cancelling(size) if seed < 2 else honest(seed) for seed in range(NUM_CLIENTS)]
    assert moved(base, aggregate_in_memory(specification, base, sent)) < 1.0


@pytest.mark.parametrize("encoding", ["dense", factored()])
def test_a_median_is_no_longer_than_the_changes_it_is_made_of(encoding: Any) -> None:
    """Its elements are of different clients: it may have √2 times the norm of each of them."""
    specification = specified(encoding, "median", max_update_norm=CAP, minimum_updates=3)
    base = specification.parameters.initial_values()
    sent = []
    for absent in range(3):
        change = np.ones((12, 5), np.float32)
        change.reshape(-1)[absent::3] = 0.0
        wire = {MATRIX: change, BIAS: np.zeros(7, np.float32)}
        sent.append(SentUpdate({n: a * CAP / norm(wire) for n, a in wire.items()}, "dense"))
    sent = [SentUpdate({n: a.astype(np.float32) for n, a in s.wire.items()}, "dense") for s in sent]
    assert moved(base, aggregate_in_memory(specification, base, sent)) == pytest.approx(CAP, 1e-3)


def test_what_is_left_out_of_a_delta_does_not_pile_up() -> None:
    """A hostile residual would fill the deltas of many rounds."""
    specification = specified(factored(rank=1), "mean", max_update_norm=CAP)
    base = specification.parameters.initial_values()
    residual = {name: np.full(shape, 1e6, np.float32) for name, shape in SHAPES.items()}
    result = aggregate_in_memory(specification, base, [honest(1)], residual)
    assert moved(base, result) <= CAP * 1.01
    assert norm(result.residual) <= CAP * 1.001


@pytest.mark.parametrize("encoding", ["dense", factored()])
@pytest.mark.parametrize("rule", ["mean", *RULES])
def test_a_relative_cap_bounds_the_step_too(encoding: Any, rule: str) -> None:
    """Updates that an earlier version recorded were not judged when they came."""
    specification = specified(encoding, rule, max_relative_norm=0.5, minimum_updates=7)
    base = specification.parameters.initial_values()
    limit = 0.5 * np.sqrt(67.0)
    assert limit > 0.5 * norm(base)
    wire = {name: np.full(shape, 100.0, np.float32) for name, shape in SHAPES.items()}
    sent = [SentUpdate(wire, "dense")] * NUM_CLIENTS
    assert moved(base, aggregate_in_memory(specification, base, sent)) == pytest.approx(limit, 1e-3)


def test_a_decay_that_components_undo_is_charged_to_nobody() -> None:
    """The norm is that of the change: 0.3 of the weights taken off and put on again is none."""
    specification = specified(factored(dtype="float32"), "mean", max_update_norm=0.1)
    base = specification.parameters.initial_values()
    columns = np.eye(5, dtype=np.float32)
    sent = update(np.ascontiguousarray(0.3 * base[MATRIX].T), columns, -0.3)
    result = aggregate_in_memory(specification, base, [sent])
    assert moved(base, result) < 1e-5


exponents = st.integers(-30, 38)


@st.composite
def matrices(draw: st.DrawFn, rank: int, columns: int, dtype: str) -> Array:
    """Rows of sizes of their own, some of them the negative of another."""
    generator = np.random.default_rng(draw(st.integers(0, 5)))
    array = generator.uniform(-1, 1, (rank, columns))
    for row in range(rank):
        limit = 4 if dtype == "float16" else 38
        array[row] *= 10.0 ** min(draw(exponents), limit)
    if rank > 1 and draw(st.booleans()):
        array[1] = array[0] * draw(st.sampled_from([1.0, -1.0, -1.0 - 2.0**-23]))
    return array.astype(DTYPES[dtype])


@st.composite
def hostile_updates(draw: st.DrawFn, base: dict[str, Array]) -> SentUpdate:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    bias = draw(matrices(1, 7, dtype)).reshape(7)
    scale = np.array(draw(matrices(1, 1, "float32"))[0, 0])
    kind = draw(st.sampled_from(["components", "undone", "whole", "honest"]))
    if kind == "honest":
        return honest(draw(st.integers(0, 9)))
    if kind == "whole":
        wire: dict[str, Array] = {
            MATRIX: draw(matrices(12, 5, dtype)),
            MATRIX + "/scale": np.array(draw(matrices(1, 1, "float32"))[0, 0]),
        }
    elif kind == "undone":
        sign = draw(st.sampled_from([-1.0, 1.0]))
        left = np.clip(-sign * base[MATRIX].T.astype(np.float64), -LARGEST, LARGEST)
        wire = {
            MATRIX + "/left": np.ascontiguousarray(left).astype(np.float32),
            MATRIX + "/right": np.eye(5, dtype=np.float32),
            MATRIX + "/base_scale": np.array(sign, np.float32),
        }
    else:
        rank = draw(st.integers(0, 5))
        wire = {
            MATRIX + "/left": draw(matrices(rank, 12, dtype)),
            MATRIX + "/right": draw(matrices(rank, 5, "float32")),
            MATRIX + "/base_scale": np.array(draw(st.floats(-1, 1)), np.float32),
        }
    examples = draw(st.integers(1, 10**7))
    return SentUpdate(wire | {BIAS: bias, BIAS + "/scale": scale}, "factored", examples)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_rule_moves_the_weights_by_more_than_its_cap(data: st.DataObject) -> None:
    """All clients may be hostile, and what the version before left out may be anything."""
    rank = data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    encoding = factored(rank, dtype, data.draw(st.sampled_from([0.0, 0.01])))
    cap = 10.0 ** data.draw(st.integers(-3, 6))
    rejects = data.draw(st.booleans())
    specification = specified(
        encoding,
        data.draw(st.sampled_from(["mean", *RULES])),
        max_update_norm=cap,
        on_excess="reject" if rejects else "clip",
        minimum_updates=7,
    )
    size = 10.0 ** data.draw(st.integers(-6, 30))
    initial = specification.parameters.initial_values()
    base = {name: (size * value).astype(np.float32) for name, value in initial.items()}
    left_out = 10.0 ** data.draw(st.integers(-6, 30))
    residual = {name: (left_out * value).astype(np.float32) for name, value in initial.items()}
    sent = [data.draw(hostile_updates(base)) for _ in range(NUM_CLIENTS)]
    try:
        result = aggregate_in_memory(specification, base, sent, residual)
    except AggregationFailed as error:
        if rejects and "updates are over max_update_norm" in str(error):
            return
        raise
    rounding = (2 * rank + 2) * 2.0**-23 * norm(base)
    assert moved(base, result) <= 1.01 * cap + rounding
    assert norm(result.residual) <= 1.001 * cap
    again = aggregate_in_memory(specification, base, sent, residual)
    assert digest_arrays(again.weights) == digest_arrays(result.weights)
