"""Clients' changes in either encoding, sent to a round, and the change that the round makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.arrays import Array
from shared.federation.specification import FederationSpecification
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from shared.tensors.low_rank import FactoredDelta
from tests.support.coordinator import RunningCoordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

MATRIX = "hypernetwork.output.weight"
FACTORED = {"name": "factored", "wire_dtype": "float32", "publish_tolerance": 0.0}
CLIENTS = tuple("abcdefg")
RULES: dict[str, Any] = {
    "median": "median",
    "trimmed-mean": {"rule": "trimmed-mean", "trim_fraction": 0.29},
    "multi-krum": {"rule": "multi-krum", "hostile_clients": 2},
}
"""Robust rules that two hostile clients of ``CLIENTS`` do not bend."""
ENCODINGS = {"dense": "dense", "factored": FACTORED}


def specified(encoding: str, aggregation: Any = "mean", **policy: Any) -> FederationSpecification:
    """Without ``max_relative_norm``, which would refuse what caps and rules are tested with."""
    policy = {"max_relative_norm": None} | policy
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
