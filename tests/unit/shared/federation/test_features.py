"""The features of a federation's rows: what may be agreed, and what a document says of it."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation.features import Feature, total_width
from shared.federation.plans import TrainingPlan
from shared.federation.specification import FederationSpecification
from tests.support.rows import FEATURES, WIDTH, row_plan
from tests.support.specifications import tiny_specification


def plan(**changed: Any) -> TrainingPlan:
    return TrainingPlan.model_validate(row_plan().model_dump() | changed)


def test_categories_are_inputs_of_their_own() -> None:
    assert total_width(FEATURES) == WIDTH == 1 + 3 + 1


def test_a_document_has_features_only_where_they_are_agreed() -> None:
    document = row_plan().model_dump(mode="json")
    assert document["image_shape"] == [5]
    assert document["features"] == [
        {"name": "age"},
        {"name": "sex", "categories": ["f", "m", "x"]},
        {"name": "bmi"},
    ]
    assert TrainingPlan.model_validate(document) == row_plan()
    assert "features" not in plan(features=None).model_dump()
    assert "features" not in tiny_specification().document["training"]


def test_names_are_one_however_they_were_typed() -> None:
    apart = unicodedata.normalize("NFD", "âge")
    assert Feature(name=apart) == Feature(name="âge")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": [3]}, r"image_shape must be \[5\] for these features, not \[3\]"),
        ({"image_shape": [1, 5, 1]}, r"image_shape must be \[5\]"),
        ({"image_shape": [5, 1]}, r"or \[length\] of a vector, not \[5, 1\]"),
        ({"image_shape": [0]}, "must be positive"),
        ({"features": [{"name": "age"}, {"name": "age"}], "image_shape": [2]}, "there twice"),
        ({"features": [{"name": "split"}], "image_shape": [1]}, "a table's own column"),
        ({"features": [{"name": " age"}], "image_shape": [1]}, "no space at an end"),
        ({"features": [{"name": ""}], "image_shape": [1]}, "1 to 200 characters"),
        ({"features": [{"name": "sex", "categories": ["f"]}], "image_shape": [1]}, "two categ"),
        (
            {"features": [{"name": "sex", "categories": ["f", "f"]}], "image_shape": [2]},
            "a category of sex: 'f' is there twice",
        ),
        ({"features": []}, "at least 1 item"),
    ],
)
def test_what_nobody_could_agree_on_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan(**changes)


@pytest.mark.parametrize("model", ["cnn-mnist", "cnn-cifar"])
def test_a_network_for_images_takes_no_rows(model: str) -> None:
    document = tiny_specification().document
    document["training"] |= {"model": model, "image_shape": [5]}
    with pytest.raises(ValidationError, match=r"takes images, .* use mlp:WIDTHxDEPTH"):
        FederationSpecification.model_validate(document)
