"""Rounds in which some clients lie: norms, weights and robust rules, through the REST interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared import codec
from shared.arrays import Array
from shared.encodings import encoding_for
from shared.low_rank import FactoredDelta
from shared.specification import FederationSpecification
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration

MATRIX = "hypernetwork.output.weight"
FACTORED = {"name": "factored", "wire_dtype": "float32", "publish_tolerance": 0.0}
ENCODINGS = {"dense": "dense", "factored": FACTORED}
CLIENTS = tuple("abcdefg")


def specified(encoding: str, aggregation: Any = "mean", **policy: Any) -> FederationSpecification:
    document = tiny_specification(encoding=ENCODINGS[encoding], **policy).model_dump(mode="json")
    return FederationSpecification.model_validate(document | {"aggregation": aggregation})


def changes(
    specification: FederationSpecification, seed: int, size: float = 1.0
) -> tuple[dict[str, Array], dict[str, Array]]:
    """A client's changes written out in full, and as the federation's encoding sends them."""
    generator = np.random.default_rng(seed)
    base = specification.parameters.initial_values()
    given: dict[str, Any] = {
        name: (size * generator.standard_normal(value.shape)).astype(np.float32)
        for name, value in base.items()
    }
    full = dict(given)
    if specification.encoding.name == "factored":
        rows, columns = base[MATRIX].shape
        given[MATRIX] = FactoredDelta(
            -0.25 - seed / 64,
            (size * generator.standard_normal((1, rows))).astype(np.float32),
            generator.standard_normal((1, columns)).astype(np.float32),
        )
        full[MATRIX] = given[MATRIX].dense(base[MATRIX])
    encoding = encoding_for(specification.encoding)
    return full, encoding.encode(given, {}, base, specification.parameters).wire


def norm(change: dict[str, Array]) -> float:
    return float(np.sqrt(sum(np.square(v.astype(np.float64)).sum() for v in change.values())))


async def send(
    coordinator: RunningCoordinator,
    specification: FederationSpecification,
    client: str,
    wire: dict[str, Array],
    num_examples: int = 10,
) -> Any:
    task = await coordinator.task(specification.name, client)
    return await coordinator.put(
        task,
        update_bytes(
            specification,
            task,
            wire,
            encoding=specification.encoding.name,
            num_examples=num_examples,
        ),
    )


async def change_of_round_one(
    coordinator: RunningCoordinator, specification: FederationSpecification
) -> dict[str, Array]:
    await coordinator.driver.step()
    shown = await coordinator.show(f"{specification.name}/rounds/1")
    assert shown["phase"] == "committed", shown
    response = await coordinator.http.get(
        f"/v1/federations/{specification.name}/weights/1", headers=coordinator.admin
    )
    weights, _ = codec.decode(response.content)
    base = specification.parameters.initial_values()
    return {name: weights[name] - base[name] for name in base}


def assert_close(found: dict[str, Array], expected: dict[str, Array], atol: float = 1e-5) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


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


RULES: dict[str, Any] = {
    "median": "median",
    "trimmed-mean": {"rule": "trimmed-mean", "trim_fraction": 0.29},
    "multi-krum": {"rule": "multi-krum", "hostile_clients": 2},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rule", RULES)
async def test_two_hostile_clients_of_seven_do_not_move_a_robust_federation(
    coordinator: RunningCoordinator, encoding: str, rule: str
) -> None:
    """Honest clients differ by noise; the result is theirs, bit for bit in any order of arrival."""
    digests = []
    for name, order in (("one", CLIENTS), ("two", CLIENTS[::-1])):
        specification = specified(encoding, RULES[rule], rounds=1, minimum_updates=7)
        specification = specification.model_copy(update={"name": name})
        await coordinator.started(specification, *CLIENTS)
        everyone = {}
        for client in order:
            seed = CLIENTS.index(client)
            full, wire = changes(specification, seed, 1e6 if client in "bf" else 0.01)
            everyone[client] = full
            assert (await send(coordinator, specification, client, wire, 10**6)).status_code == 201
        found = await change_of_round_one(coordinator, specification)
        assert_close(found, expected_change(rule, everyone), atol=1e-4)
        assert norm(found) < 2.0
        digests.append((await coordinator.show(name))["weights_digest"])
    assert digests[0] == digests[1]


def expected_change(rule: str, everyone: dict[str, dict[str, Array]]) -> dict[str, Array]:
    names = list(everyone["a"])
    stacks = {n: np.stack([everyone[c][n].astype(np.float64) for c in CLIENTS]) for n in names}
    if rule == "median":
        return {n: np.median(stack, axis=0) for n, stack in stacks.items()}
    if rule == "trimmed-mean":
        return {n: np.sort(stack, axis=0)[2:-2].mean(axis=0) for n, stack in stacks.items()}
    flat = np.concatenate([stack.reshape(7, -1) for stack in stacks.values()], axis=1)
    distances = np.square(flat[:, None] - flat[None]).sum(axis=2)
    scores = np.sort(distances, axis=1)[:, 1:4].sum(axis=1)
    chosen = np.argsort(scores)[:3]
    return {n: stack[chosen].mean(axis=0) for n, stack in stacks.items()}


async def test_a_specification_whose_rounds_are_too_small_for_its_rule_is_refused(
    coordinator: RunningCoordinator,
) -> None:
    document = specified("dense").model_dump(mode="json")
    response = await coordinator.http.post(
        "/v1/federations",
        json=document | {"aggregation": {"rule": "multi-krum", "hostile_clients": 2}},
        headers=coordinator.admin,
    )
    assert response.status_code == 422
    assert "needs minimum_updates of at least 7, not 1" in response.json()["detail"]
