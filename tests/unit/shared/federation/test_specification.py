"""A federation's specification: what is refused and why, cohorts, and the digest."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from shared.federation.sharing import HYPERNETWORK
from shared.federation.specification import (
    EncodingPlan,
    FederationSpecification,
    ParameterSpecification,
    RoundPolicy,
    document_digest,
)
from tests.support.specifications import tiny_specification


def document(**changed: Any) -> dict[str, Any]:
    """The tiny federation as JSON, with members replaced; ``part__member`` reaches inside."""
    plain = tiny_specification().model_dump(mode="json")
    for name, value in changed.items():
        part, _, member = name.partition("__")
        if member:
            plain[part][member] = value
        else:
            plain[part] = value
    return plain


def specification(**changed: Any) -> FederationSpecification:
    return FederationSpecification.model_validate(document(**changed))


def tensor(name: str, rows: int = 1) -> dict[str, Any]:
    return {"name": name, "shape": [rows], "initialisation": [{"rows": rows}]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parameters__tensors": [tensor("a"), tensor("b"), tensor("a")]}, "a is specified twice"),
        ({"parameters__tensors": [tensor("a/left")]}, "should match pattern"),
        ({"parameters__tensors": [tensor("a") | {"dtype": "F16"}]}, "Extra inputs"),
        ({"parameters__seed": -1}, "greater than or equal to 0"),
        ({"parameters__seed": 1 << 63}, "less than 9223372036854775808"),
        (
            {"round_policy__cohort_fraction": 0.5, "round_policy__cohort_size": 2},
            "give cohort_fraction or cohort_size, not both",
        ),
        (
            {"round_policy__cohort_size": 2, "round_policy__minimum_updates": 3},
            "minimum_updates 3 exceeds cohort_size 2",
        ),
        ({"round_policy__rounds": 0}, "greater than or equal to 1"),
        ({"round_policy__rounds": 1_000_001}, "less than or equal to 1000000"),
        ({"round_policy__cohort_fraction": 0.0}, "greater than 0"),
        ({"round_policy__cohort_fraction": 1.01}, "less than or equal to 1"),
        ({"round_policy__cohort_fraction": float("nan")}, "cohort_fraction"),
        ({"round_policy__cohort_size": 0}, "greater than or equal to 1"),
        ({"round_policy__minimum_updates": 0}, "greater than or equal to 1"),
        ({"round_policy__deadline_seconds": 0.0}, "greater than 0"),
        ({"round_policy__deadline_seconds": float("inf")}, "less than or equal to 2592000"),
        ({"round_policy__lease_seconds": -1.0}, "greater than 0"),
        ({"round_policy__lease_seconds": 86401.0}, "less than or equal to 86400"),
        ({"round_policy__max_failed_rounds": -1}, "greater than or equal to 0"),
        ({"round_policy__max_num_examples": 0}, "greater than or equal to 1"),
        ({"round_policy__quorum": 3}, "Extra inputs are not permitted"),
        ({"encoding": "sparse"}, "Input should be 'dense' or 'factored'"),
        ({"encoding": {"wire_dtype": "int8"}}, "Input should be 'float32', 'float16' or 'bfloat1"),
        ({"encoding": {"tolerance": 1.0}}, "less than 1"),
        ({"encoding": {"tolerance": -0.1}}, "greater than or equal to 0"),
        ({"encoding": {"publish_tolerance": 1.0}}, "less than 1"),
        ({"encoding": {"max_rank": 0}}, "greater than or equal to 1"),
        ({"encoding": {"publish_max_rank": 4097}}, "less than or equal to 4096"),
        ({"encoding": {"rank": 1}}, "Extra inputs are not permitted"),
        ({"encoding": None}, "EncodingPlan"),
        ({"round_policy__max_update_norm": 0.0}, "greater than 0"),
        ({"round_policy__max_relative_norm": 0.0}, "greater than 0"),
        ({"round_policy__max_relative_norm": float("inf")}, "finite number"),
        ({"round_policy__on_excess": "ignore"}, "Input should be 'clip' or 'reject'"),
        ({"round_policy__max_examples_weight": 0}, "greater than or equal to 1"),
        ({"aggregation": "medain"}, "Input should be 'mean', 'median'"),
        ({"aggregation": "median"}, "median needs minimum_updates of at least 3, not 1"),
        ({"aggregation": "trimmed-mean"}, "aggregation trimmed-mean needs trim_fraction"),
        (
            {"aggregation": {"rule": "median", "trim_fraction": 0.2}},
            "aggregation median does not take trim_fraction",
        ),
        (
            {"aggregation": {"rule": "trimmed-mean", "trim_fraction": 0.3}},
            "trimmed-mean needs minimum_updates of at least 4, not 1",
        ),
        (
            {"aggregation": {"rule": "multi-krum", "hostile_clients": 2}},
            "multi-krum needs minimum_updates of at least 7, not 1",
        ),
        (
            {
                "aggregation": "median",
                "round_policy__minimum_updates": 3,
                "round_policy__max_examples_weight": 5,
            },
            "median weighs all clients alike: leave out max_examples_weight",
        ),
        ({"training__method": "hyprfl"}, "the closest are hyperfl"),
        ({"owner": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        specification(**changed)


@pytest.mark.parametrize("name", ["a", "0", "hospitals-2025.north_sea", "a" * 63])
def test_a_name_that_fits_an_address_is_taken(name: str) -> None:
    assert specification(name=name).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".", "..", "a/b", "a b", "ä", "a\n", "a" * 64])
def test_a_name_that_does_not_fit_an_address_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        specification(name=name)


@pytest.mark.parametrize("member", ["name", "parameters", "training", "round_policy"])
def test_a_missing_member_is_named(member: str) -> None:
    incomplete = document()
    del incomplete[member]
    with pytest.raises(ValidationError, match=f"{member}\n  Field required"):
        FederationSpecification.model_validate(incomplete)


def test_an_encoding_is_given_by_name_or_in_full_or_not_at_all() -> None:
    assert specification(encoding="dense").encoding == EncodingPlan(name="dense")
    assert specification(encoding={"max_rank": 8}).encoding == EncodingPlan(max_rank=8)
    without = document()
    del without["encoding"]
    read = FederationSpecification.model_validate(without)
    assert read.encoding == EncodingPlan()
    assert read.encoding.name == "factored"


def test_names_are_checked_before_anything_is_sent() -> None:
    parameters = ParameterSpecification.model_validate(
        {"seed": 1, "tensors": [tensor("a"), tensor("b")]}
    )
    parameters.check_names(["b", "a"])
    parameters.check_names({"a": 1, "b": 2})
    with pytest.raises(ValueError, match=r"^not shared by this federation: embedding, head$"):
        parameters.check_names(["head", "a", "embedding"])
    with pytest.raises(ValueError, match=r"^missing: a, b$"):
        parameters.check_names([])


def test_the_parameters_know_their_tensors_and_size() -> None:
    parameters = tiny_specification().parameters
    assert parameters.size_bytes == 4 * (2 * 3 + 2 + 4 * 2 + 4)
    assert list(parameters.by_name) == [one.name for one in parameters.tensors]
    values = parameters.initial_values()
    assert {name: value.shape for name, value in values.items()} == {
        one.name: one.shape for one in parameters.tensors
    }
    for one in parameters.tensors:
        assert parameters.by_name[one.name] is one
        np.testing.assert_array_equal(values[one.name], one.initial_value(parameters.seed))


@pytest.mark.parametrize(
    ("policy", "num_clients", "expected"),
    [
        ({}, 7, 7),
        ({}, 0, 0),
        ({"cohort_size": 3}, 7, 3),
        ({"cohort_size": 3}, 2, 2),
        ({"cohort_fraction": 0.5}, 7, 4),
        ({"cohort_fraction": 0.5}, 8, 4),
        ({"cohort_fraction": 0.001}, 7, 1),
        ({"cohort_fraction": 1.0}, 7, 7),
    ],
)
def test_the_size_of_a_cohort(policy: dict[str, Any], num_clients: int, expected: int) -> None:
    assert RoundPolicy(rounds=1, **policy).size_of_cohort(num_clients) == expected


def test_a_fraction_in_percent_is_rounded_up_exactly() -> None:
    wrong = [
        (percent, num_clients)
        for percent in range(1, 101)
        for policy in [RoundPolicy(rounds=1, cohort_fraction=percent / 100)]
        for num_clients in range(1, 301)
        if policy.size_of_cohort(num_clients) != -(-percent * num_clients // 100)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, 1),
        ({"minimum_updates": 3}, 3),
        ({"cohort_size": 4}, 4),
        ({"cohort_size": 4, "minimum_updates": 4}, 4),
        ({"cohort_fraction": 0.5, "minimum_updates": 2}, 2),
    ],
)
def test_the_clients_without_which_no_round_opens(policy: dict[str, Any], expected: int) -> None:
    assert RoundPolicy(rounds=1, **policy).clients_needed == expected


def digest(given: FederationSpecification) -> str:
    return document_digest(given.document)


def test_the_digest_is_of_the_sorted_json_and_survives_it() -> None:
    recorded = tiny_specification().document
    canonical = json.dumps(recorded, sort_keys=True, separators=(",", ":"))
    expected = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    assert document_digest(recorded) == expected
    read = FederationSpecification.model_validate_json(json.dumps(recorded))
    assert digest(read) == expected


def test_the_digest_of_a_document_is_not_that_of_what_a_later_version_reads_in_it() -> None:
    recorded = tiny_specification().document
    del recorded["round_policy"]["on_excess"]
    recorded["encoding"] = "dense"
    read = FederationSpecification.model_validate(recorded)
    assert read.document == tiny_specification().document
    assert document_digest(recorded) != digest(read)


def test_the_digest_is_the_same_however_the_specification_was_written() -> None:
    def reversed_members(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: reversed_members(value[name]) for name in reversed(value)}
        return value

    without_defaults = document()
    without_defaults["training"].pop("hyperparameters")
    without_defaults["round_policy"] = {"rounds": 2, "evaluate_final": False}
    without_defaults["encoding"] = "dense"
    written = [document(), reversed_members(document()), without_defaults]
    assert {digest(FederationSpecification.model_validate(one)) for one in written} == {
        digest(tiny_specification())
    }


def test_the_digest_does_not_depend_on_the_order_of_an_own_methods_settings() -> None:
    digests = {
        digest(specification(training__method="package:name", training__hyperparameters=given))
        for given in ({"a": 1, "b": 2.5}, {"b": 2.5, "a": 1})
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"parameters__seed": 8},
        {"parameters__tensors": [tensor(name) for name in HYPERNETWORK]},
        {"training__num_classes": 4},
        {"training__hyperparameters": {"epochs": 6}},
        {"round_policy__rounds": 3},
        {"encoding": {"name": "dense", "max_rank": 5}},
    ],
    ids=str,
)
def test_another_federation_has_another_digest(changed: dict[str, Any]) -> None:
    assert digest(specification(**changed)) != digest(tiny_specification())


def test_a_specification_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        specification().name = "other"


@pytest.mark.parametrize(
    ("factor", "base_norm", "expected"),
    [(10.0, 3.0, 90.0), (10.0, 20.0, 200.0), (0.5, 0.0, 4.5), (None, 3.0, math.inf)],
)
def test_a_change_is_measured_by_the_weights_or_by_their_number(
    factor: float | None, base_norm: float, expected: float
) -> None:
    policy = RoundPolicy(rounds=1, max_relative_norm=factor)
    assert policy.relative_limit(base_norm, num_elements=81) == expected
