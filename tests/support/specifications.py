"""Small federations for tests that need no torch."""

from __future__ import annotations

from typing import Any

from shared.federation.specification import FederationSpecification

EMBEDDING_SIZE, HIDDEN_SIZE, NUM_GENERATED = 3, 2, 4


def tiny_specification(
    name: str = "tiny", encoding: Any = "dense", **policy: Any
) -> FederationSpecification:
    """A hypernetwork of 4 tensors that generates 4 numbers."""
    return FederationSpecification.model_validate(
        {
            "name": name,
            "parameters": {
                "seed": 7,
                "tensors": [
                    _tensor("hypernetwork.trunk.weight", [HIDDEN_SIZE, EMBEDDING_SIZE]),
                    _tensor("hypernetwork.trunk.bias", [HIDDEN_SIZE]),
                    _tensor("hypernetwork.output.weight", [NUM_GENERATED, HIDDEN_SIZE]),
                    _tensor("hypernetwork.output.bias", [NUM_GENERATED]),
                ],
            },
            "training": {
                "method": "hyperfl",
                "model": "tests.support.models:tiny",
                "image_shape": [1, 4, 4],
                "num_classes": 3,
            },
            "encoding": encoding,
            "round_policy": {"rounds": 2, "evaluate_final": False} | policy,
        }
    )


def _tensor(name: str, shape: list[int]) -> dict[str, Any]:
    return {
        "name": name,
        "shape": shape,
        "initialisation": [{"rows": shape[0], "centre": 0.0, "bound": 0.5}],
    }
