"""Rounds of a federation whose updates and versions travel as components."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.arrays import Array
from shared.federation.specification import FederationSpecification
from shared.tensors.encodings import Encoding, encoding_for
from shared.tensors.low_rank import FactoredDelta
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

MATRIX = "hypernetwork.output.weight"


def factored(**policy: Any) -> FederationSpecification:
    return tiny_specification(
        encoding={"name": "factored", "wire_dtype": "float16", "max_rank": 1}, **policy
    )


def deltas(specification: FederationSpecification, seed: int) -> dict[str, Any]:
    """Dense changes, but of the one matrix in factors."""
    generator = np.random.default_rng(seed)
    changes: dict[str, Any] = {
        tensor.name: generator.standard_normal(tensor.shape).astype(np.float32)
        for tensor in specification.parameters.tensors
    }
    rows, columns = specification.parameters.by_name[MATRIX].shape
    changes[MATRIX] = FactoredDelta(
        -0.01,
        generator.standard_normal((2, rows)).astype(np.float32),
        generator.standard_normal((2, columns)).astype(np.float32),
    )
    return changes


async def send(
    coordinator: RunningCoordinator,
    specification: FederationSpecification,
    client: str,
    seed: int,
    encoding: Encoding,
    weights: dict[str, Array],
) -> None:
    task = await coordinator.task("tiny", client)
    encoded = encoding.encode(deltas(specification, seed), {}, weights, specification.parameters)
    body = update_bytes(specification, task, encoded.wire, encoding=encoding.name)
    response = await coordinator.put(task, body)
    assert response.status_code == 201, response.text


def larger(specification: FederationSpecification) -> FederationSpecification:
    """The same with a matrix whose deltas are less than the whole."""
    document = specification.model_dump(mode="json")
    for tensor in document["parameters"]["tensors"]:
        if tensor["name"] == MATRIX:
            tensor["shape"] = [3000, 32]
            tensor["initialisation"][0]["rows"] = 3000
    return FederationSpecification.model_validate(document)


async def commit_rounds(
    coordinator: RunningCoordinator, specification: FederationSpecification, count: int
) -> None:
    """The first rounds of a federation with the one client a."""
    await coordinator.started(specification, "a")
    encoding = encoding_for(specification.encoding)
    base = specification.parameters.initial_values()
    for round_number in range(1, count + 1):
        await send(coordinator, specification, "a", round_number, encoding, base)
        await coordinator.driver.step()
