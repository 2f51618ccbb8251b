"""What a federation whose clients write into a shared table cannot have."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation.protection_kinds import default_encoding
from shared.federation.specification import FederationSpecification

TENSORS = ["extractor.layers.0.weight", "extractor.layers.0.bias", "clients.table"]
BUDGET = {"epsilon": 8, "delta": 1e-5, "rounds": 3, "clip_norm": 1.0, "noise_multiplier": 1.0}


def document(**changes: Any) -> dict[str, Any]:
    tensors = [{"name": one, "shape": [1], "initialisation": [{"rows": 1}]} for one in TENSORS]
    training = {"method": "fedpac", "model": "mlp:8x1", "image_shape": [4], "num_classes": 2}
    made = {
        "name": "hospitals",
        "parameters": {"seed": 1, "tensors": tensors},
        "training": training | changes.pop("training", {}),
        "round_policy": {"rounds": 3, "minimum_updates": 3} | changes.pop("round_policy", {}),
        "encoding": "dense",
    }
    return made | changes


def test_a_plain_federation_has_a_table() -> None:
    found = FederationSpecification.model_validate(document())
    assert found.training.hyperparameters["max_clients"] == 32
    rejecting = {"round_policy": {"max_update_norm": 5.0, "on_excess": "reject"}}
    FederationSpecification.model_validate(document(**rejecting))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "factored"}, "encoding factored rounds the rows of method fedpac"),
        ({"aggregation": "median"}, "aggregation median leaves none of a row"),
        ({"round_policy": {"max_update_norm": 5.0}}, "a clipped update of method fedpac"),
        ({"protection": {"allow_separable": True}}, "a secure sum would show all the same"),
        ({"training": {"privacy": {"unit": "client"}}}, "noise for a mean would cover"),
        ({"training": {"privacy": {"unit": "example"}}}, "noise for a mean would cover"),
    ],
)
def test_what_would_break_the_table_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    if "training" in changes:
        changes["training"]["privacy"] |= BUDGET
    with pytest.raises(ValidationError, match=message):
        FederationSpecification.model_validate(document(**changes))


@pytest.mark.parametrize(
    ("kind", "method", "encoding"),
    [("none", "fedavg", "factored"), ("none", "fedpac", "dense"), ("dp", "fedavg", "dense")],
)
def test_the_encoding_is_dense_where_another_would_spoil_an_update(
    kind: str, method: str, encoding: str
) -> None:
    assert default_encoding(kind, method) == encoding
