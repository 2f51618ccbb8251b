"""Federations whose updates and versions travel as components."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.arrays import Array, digest_arrays
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from shared.tensors.version_deltas import CHAIN_METADATA_KEY, advance_weights, split_chain
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.factored_rounds import MATRIX, deltas, factored, larger, send
from tests.support.rounds import weights_row
from tests.support.updates import update_bytes

pytestmark = pytest.mark.integration


async def fetch(coordinator: RunningCoordinator, version: int, **query: int) -> Any:
    response = await coordinator.http.get(
        f"/v1/federations/tiny/weights/{version}", params=query, headers=coordinator.admin
    )
    assert response.status_code == 200, response.text
    return codec.decode(response.content)


async def test_versions_are_rebuilt_bit_for_bit_from_published_deltas(
    coordinator: RunningCoordinator,
) -> None:
    specification = factored(rounds=3)
    await coordinator.started(specification, "a", "b")
    encoding = encoding_for(specification.encoding)
    held = specification.parameters.initial_values()
    for round_number in range(1, 4):
        for client in ("a", "b"):
            await send(coordinator, specification, client, round_number, encoding, held)
        await coordinator.driver.step()
        # The files of so small a federation are mostly header; so take the delta from the store.
        delta = await _published_delta(coordinator, round_number)
        advance_weights(held, delta, specification.parameters)
        assert digest_arrays(held) == await _digest(coordinator, round_number)
        whole, _ = await fetch(coordinator, round_number)
        for name, value in held.items():
            np.testing.assert_array_equal(whole[name], value)


async def _published_delta(coordinator: RunningCoordinator, version: int) -> dict[str, Array]:
    weights = await weights_row(coordinator, version)
    assert weights.delta_blob_id is not None
    arrays, _ = codec.decode(await coordinator.context.blobs.read_whole(weights.delta_blob_id))
    return arrays


async def _digest(coordinator: RunningCoordinator, version: int) -> str:
    rounds = await coordinator.show("tiny/rounds")
    digest: str = rounds[version - 1]["new_digest"]
    return digest


async def test_what_compression_leaves_out_arrives_with_the_next_versions(
    coordinator: RunningCoordinator,
) -> None:
    """One round of change, then rounds of none: the versions approach the exact mean."""
    specification = factored(rounds=4)
    await coordinator.started(specification, "a")
    start = specification.parameters.initial_values()
    dense = encoding_for(specification.encoding, "dense")
    await send(coordinator, specification, "a", 1, dense, start)
    await coordinator.driver.step()
    exact = dense.encode(deltas(specification, 1), {}, start, specification.parameters).wire
    target = {name: start[name] + exact[name] for name in start}
    errors = []
    for version in range(1, 5):
        weights, _ = await fetch(coordinator, version)
        errors.append(max(float(np.abs(weights[n] - target[n]).max()) for n in target))
        if version < 4:
            task = await coordinator.task("tiny", "a")
            zeros = {name: np.zeros_like(value) for name, value in start.items()}
            await coordinator.put(task, update_bytes(specification, task, zeros))
            await coordinator.driver.step()
    assert errors[0] > 1e-4  # half precision
    assert errors[-1] < 1e-6


async def test_dense_and_factored_updates_mix_and_order_does_not_matter(
    coordinator: RunningCoordinator,
) -> None:
    digests = []
    specification = factored(rounds=1)
    for name, order in (("one", "abc"), ("two", "cab")):
        renamed = specification.model_copy(update={"name": name})
        await coordinator.started(renamed, *"abc")
        weights = renamed.parameters.initial_values()
        for client in order:
            task = await coordinator.task(name, client)
            encoding = encoding_for(renamed.encoding, "dense" if client == "b" else "factored")
            wire = encoding.encode(
                deltas(renamed, ord(client)), {}, weights, renamed.parameters
            ).wire
            body = update_bytes(renamed, task, wire, encoding=encoding.name)
            assert (await coordinator.put(task, body)).status_code == 201
        await coordinator.driver.step()
        digests.append((await coordinator.show(name))["weights_digest"])
    assert digests[0] == digests[1]


async def test_a_chain_of_deltas_is_sent_when_it_is_smaller(
    coordinator: RunningCoordinator,
) -> None:
    specification = larger(factored(rounds=2))
    await coordinator.started(specification, "a")
    encoding = encoding_for(specification.encoding)
    held = specification.parameters.initial_values()
    for round_number in (1, 2):
        await send(coordinator, specification, "a", round_number, encoding, held)
        await coordinator.driver.step()
    arrays, metadata = await fetch(coordinator, 2, since=0)
    assert metadata[CHAIN_METADATA_KEY] == '{"since":0,"version":2}'
    chain = split_chain(arrays)
    assert list(chain) == [1, 2]
    for delta in chain.values():
        advance_weights(held, delta, specification.parameters)
    assert digest_arrays(held) == await _digest(coordinator, 2)
    _, whole_metadata = await fetch(coordinator, 2, since=2)
    assert CHAIN_METADATA_KEY not in whole_metadata


@on_sqlite
@pytest.mark.parametrize(
    ("change", "member"),
    [
        ({MATRIX + "/base_scale": np.array(1.5, np.float32)}, {"found": 1.5}),
        ({MATRIX + "/base_scale": np.array(np.nan, np.float32)}, {"position": []}),
        ({MATRIX + "/left": np.zeros((5, 4), np.float16)}, {"expected": 2, "found": 5}),
        ({MATRIX + "/right": np.zeros((1, 3), np.float32)}, {"tensor": MATRIX + "/right"}),
        ({MATRIX + "/left": np.zeros((1, 4), np.float64)}, {"tensor": MATRIX + "/left"}),
        ({MATRIX: np.zeros((4, 2), np.float32)}, {"tensor": MATRIX + "/scale"}),
        ({"embedding/left": np.zeros((1, 4), np.float16)}, {"tensor": "embedding/left"}),
        ({"hypernetwork.trunk.bias/scale": np.array(np.inf, np.float32)}, {"found": "inf"}),
    ],
)
async def test_a_malformed_factored_update_is_named(
    coordinator: RunningCoordinator, change: dict[str, Array], member: dict[str, Any]
) -> None:
    specification = factored()
    await coordinator.started(specification, "a")
    task = await coordinator.task("tiny", "a")
    weights = specification.parameters.initial_values()
    wire = (
        encoding_for(specification.encoding)
        .encode(deltas(specification, 1), {}, weights, specification.parameters)
        .wire
    )
    body = update_bytes(specification, task, wire | change, encoding="factored")
    response = await coordinator.put(task, body)
    assert response.status_code == 422, response.text
    problem = response.json()
    assert {name: problem.get(name) for name in member} == member
