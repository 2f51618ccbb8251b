"""Updates as a worker would send them, and as it would not."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.arrays import Array
from shared.federation.specification import FederationSpecification
from shared.rest.schema import TaskKind, UpdateMetadata
from shared.tensors import codec


def random_deltas(specification: FederationSpecification, seed: int) -> dict[str, Array]:
    """Float32 changes of every shared tensor."""
    generator = np.random.default_rng(seed)
    return {
        tensor.name: generator.standard_normal(tensor.shape).astype(np.float32)
        for tensor in specification.parameters.tensors
    }


def update_bytes(
    specification: FederationSpecification,
    task: dict[str, Any],
    deltas: dict[str, Array] | None = None,
    **claims: Any,
) -> bytes:
    """A dense update for ``task``; ``claims`` replace what the metadata says."""
    metadata = {
        "federation": task["federation"],
        "client": task["client"],
        "round_number": task["round_number"],
        "base_version": task["base_version"],
        "base_digest": task["base_digest"],
        "encoding": "dense",
        "num_examples": 10,
        "metrics": {"accuracy_after": 0.5},
    } | claims
    if task["kind"] == TaskKind.EVALUATE:
        deltas = {}
    elif deltas is None:
        deltas = random_deltas(specification, seed=task["round_number"])
    text = UpdateMetadata.model_construct(protocol=1, **metadata).model_dump_json(warnings=False)
    return codec.encode(deltas, {"hyperfl": text})
