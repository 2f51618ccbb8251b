"""Caps on norms and weights: which updates count, and for how much, through the REST interface."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.changes import (
    ENCODINGS,
    MATRIX,
    assert_close,
    change_of_round_one,
    changes,
    norm,
    send,
    specified,
)
from tests.support.coordinator import RunningCoordinator, on_sqlite

pytestmark = [pytest.mark.integration, on_sqlite]


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_an_update_over_the_norm_is_scaled_down_to_it(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    specification = specified(encoding, max_update_norm=10.0)
    await coordinator.started(specification, "a", "b")
    small, small_wire = changes(specification, 1)
    large, large_wire = changes(specification, 2, 1000.0)
    assert norm(small) < 10.0 < norm(large)
    for client, wire in (("a", small_wire), ("b", large_wire)):
        assert (await send(coordinator, specification, client, wire)).status_code == 201
    factor = 10.0 / norm(large)
    assert_close(
        await change_of_round_one(coordinator, specification),
        {name: (small[name] + factor * large[name]) / 2 for name in small},
    )


async def test_a_dense_update_over_the_norm_is_refused_with_both_norms(
    coordinator: RunningCoordinator,
) -> None:
    specification = specified("dense", max_update_norm=10.0, on_excess="reject")
    await coordinator.started(specification, "a")
    large, wire = changes(specification, 2, 1000.0)
    response = await send(coordinator, specification, "a", wire)
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["type"] == "urn:hyperfl:problem:malformed-update"
    assert (problem["member"], problem["expected"]) == ("max_update_norm", 10.0)
    assert problem["found"] == pytest.approx(norm(large))
    assert (await coordinator.show("tiny/rounds/1"))["updates_received"] == 0
    _, small_wire = changes(specification, 1)
    assert (await send(coordinator, specification, "a", small_wire)).status_code == 201


async def test_a_factored_update_over_the_norm_is_left_out_of_the_round(
    coordinator: RunningCoordinator,
) -> None:
    specification = specified("factored", max_update_norm=10.0, on_excess="reject")
    await coordinator.started(specification, "a", "b")
    small, small_wire = changes(specification, 1)
    _, large_wire = changes(specification, 2, 1000.0)
    for client, wire in (("a", small_wire), ("b", large_wire)):
        assert (await send(coordinator, specification, client, wire)).status_code == 201
    assert_close(await change_of_round_one(coordinator, specification), small)


async def test_a_round_that_loses_too_many_updates_to_the_norm_fails_and_says_so(
    coordinator: RunningCoordinator,
) -> None:
    specification = specified(
        "factored", max_update_norm=10.0, on_excess="reject", minimum_updates=2
    )
    await coordinator.started(specification, "a", "b")
    for client, size in (("a", 1.0), ("b", 1000.0)):
        _, wire = changes(specification, 1, size)
        assert (await send(coordinator, specification, client, wire)).status_code == 201
    await coordinator.driver.step()
    shown = await coordinator.show("tiny/rounds/1")
    assert shown["phase"] == "failed"
    assert shown["reason"] == ("1 of 2 updates are over max_update_norm 10; minimum_updates is 2")


async def test_half_precision_tensors_beyond_float32_are_clipped_too(
    coordinator: RunningCoordinator,
) -> None:
    """A finite tensor and a finite scale whose product is infinite in float32."""
    specification = specified("factored", max_update_norm=10.0)
    await coordinator.started(specification, "a", "b")
    small, small_wire = changes(specification, 1)
    _, wire = changes(specification, 2)
    name = "hypernetwork.output.bias"
    wire[name] = np.full_like(wire[name], 3e38)
    wire[name + "/scale"] = np.array(3e38, np.float32)
    for client, sent in (("a", small_wire), ("b", wire)):
        assert (await send(coordinator, specification, client, sent)).status_code == 201
    found = await change_of_round_one(coordinator, specification)
    assert norm({n: found[n] - small[n] / 2 for n in small}) <= 5.0 + 1e-4


async def test_components_that_cancel_do_not_move_a_capped_federation(
    coordinator: RunningCoordinator,
) -> None:
    """Their sum is 0 in float64, and in float32 a billionth of either."""
    specification = specified("factored", max_update_norm=10.0)
    await coordinator.started(specification, "a", "b")
    small, small_wire = changes(specification, 1)
    _, wire = changes(specification, 2, 0.0)
    generator = np.random.default_rng(3)
    left = generator.uniform(1e14, 1e15, (1, 4)).astype(np.float32)
    right = generator.uniform(1e14, 1e15, (1, 2)).astype(np.float32)
    wire[MATRIX + "/left"] = np.concatenate([left, left])
    wire[MATRIX + "/right"] = np.concatenate([right, -right])
    for client, sent in (("a", small_wire), ("b", wire)):
        assert (await send(coordinator, specification, client, sent)).status_code == 201
    found = await change_of_round_one(coordinator, specification)
    assert_close(found, {name: value / 2 for name, value in small.items()})


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_claim_of_many_examples_weighs_no_more_than_the_cap(
    coordinator: RunningCoordinator, encoding: str
) -> None:
    specification = specified(encoding, max_examples_weight=30)
    await coordinator.started(specification, "a", "b")
    honest, honest_wire = changes(specification, 1)
    greedy, greedy_wire = changes(specification, 2)
    await send(coordinator, specification, "a", honest_wire, num_examples=10)
    await send(coordinator, specification, "b", greedy_wire, num_examples=1_000_000)
    assert_close(
        await change_of_round_one(coordinator, specification),
        {name: (10 * honest[name] + 30 * greedy[name]) / 40 for name in honest},
    )
