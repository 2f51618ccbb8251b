"""What a protected federation cannot have at the same time, each with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation.protection_kinds import with_shared_bias
from shared.federation.sharing import KRONECKER_HYPERNETWORK
from shared.federation.specification import FederationSpecification
from tests.support.specifications import tiny_specification
from tests.support.sum_members import protected_specification


def changed(**changes: Any) -> FederationSpecification:
    document = protected_specification().document
    policy = changes.pop("round_policy", {})
    document["round_policy"] |= policy
    return FederationSpecification.model_validate(document | changes)


def test_a_federation_that_keeps_to_the_rules_is_taken() -> None:
    assert changed() == protected_specification()
    assert changed(round_policy={"max_update_norm": 1.0}).protection is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregation": "median"}, "aggregation median compares clients' updates"),
        ({"encoding": "factored"}, "encoding factored writes updates as factors"),
        (
            {"round_policy": {"max_update_norm": 1.0, "on_excess": "reject"}},
            "on_excess reject judges each client's update",
        ),
        (
            {"round_policy": {"max_examples_weight": None}},
            r"needs round_policy\.max_examples_weight",
        ),
        ({"round_policy": {"minimum_updates": 2}}, "a secure sum of 2 clients"),
        (
            {"protection": {"bits": 8}, "round_policy": {"minimum_updates": 128}},
            "8 bits cannot hold a sum of 128 clients",
        ),
        ({"protection": {"kind": "other"}}, "secure-sum"),
        ({"protection": {"bits": 33}}, "less than or equal to 32"),
    ],
)
def test_what_cannot_be_had_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(**changes)


def test_b_alone_is_shared_where_a_method_can() -> None:
    assert with_shared_bias("hyperfl", {"epochs": 2}) == {
        "shared_part": "output-bias",
        "epochs": 2,
    }
    for method in ("pfedhn", "hyperfl-plus", "fedavg", "own.methods:mine"):
        assert with_shared_bias(method, {"epochs": 2}) == {"epochs": 2}


def test_a_sum_that_comes_apart_needs_to_be_allowed() -> None:
    whole = tiny_specification(minimum_updates=3, max_examples_weight=10).document
    with pytest.raises(ValidationError, match="can be taken apart into each client's part"):
        FederationSpecification.model_validate(whole | {"protection": {}})
    allowed = {"protection": {"allow_separable": True}}
    assert FederationSpecification.model_validate(whole | allowed).protection is not None


@pytest.mark.parametrize("method", ["own.methods:mine", "hyperfl-plus"])
def test_a_method_whose_sums_are_not_known_needs_it_too(method: str) -> None:
    document = protected_specification().document
    training = document["training"] | {"method": method, "hyperparameters": {}}
    tensors = [
        {"name": name, "shape": (1,), "initialisation": [{"rows": 1}]}
        for name in KRONECKER_HYPERNETWORK
    ]
    changes = {"training": training, "parameters": {"seed": 1, "tensors": tensors}}
    with pytest.raises(ValidationError, match=f"{method}'s updates .* is not known"):
        FederationSpecification.model_validate(document | changes)
