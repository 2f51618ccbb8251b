"""Training plans: known methods have their settings filled in and checked, others keep theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import KNOWN_METHODS, PRESETS, TrainingPlan


def plan(**changed: Any) -> TrainingPlan:
    return TrainingPlan.model_validate(
        {"method": "hyperfl", "model": "cnn", "image_shape": [1, 28, 28], "num_classes": 10}
        | changed
    )


def test_every_setting_of_a_known_method_is_filled_in() -> None:
    assert plan().hyperparameters == HyperFLPlan().model_dump(exclude_none=True)
    filled = plan(hyperparameters={"epochs": 2}).hyperparameters
    assert filled == HyperFLPlan().model_dump(exclude_none=True) | {"epochs": 2}


def test_filling_in_leaves_what_was_given_as_it_is() -> None:
    given = {"epochs": 2}
    plan(hyperparameters=given)
    assert given == {"epochs": 2}


def test_a_plan_is_the_same_however_it_was_written() -> None:
    written = [
        plan(hyperparameters={}),
        plan(hyperparameters={"learning_rate": 0.1, "epochs": 5}),
        plan(hyperparameters={"epochs": 5, "learning_rate": 0.1}),
        plan(hyperparameters={"epochs": 5.0, "momentum": "0.5"}),
        plan(hyperparameters=HyperFLPlan().model_dump()),
        plan(image_shape=(1, 28, 28)),
    ]
    assert len({one.model_dump_json() for one in written}) == 1


@pytest.mark.parametrize("setting", ["learning_rate", "clip_norm"])
def test_whole_numbers_for_real_settings_are_stored_as_reals(setting: str) -> None:
    found = plan(hyperparameters={setting: 3})
    assert found.model_dump_json() == plan(hyperparameters={setting: 3.0}).model_dump_json()
    assert isinstance(found.hyperparameters[setting], float)


@pytest.mark.parametrize(
    "hyperparameters",
    [{}, {"weight_decay": 1e-300}, {"learning_rate": 1 / 3}, {"clip_norm": float("inf")}],
    ids=str,
)
def test_a_plan_that_is_taken_survives_its_json(hyperparameters: dict[str, Any]) -> None:
    try:
        taken = plan(hyperparameters=hyperparameters)
    except ValidationError:
        return
    assert TrainingPlan.model_validate_json(taken.model_dump_json()) == taken


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, 3, 0.1, "text"])
def test_an_own_methods_setting_that_is_taken_survives_its_json(value: Any) -> None:
    try:
        taken = plan(method="radiology.methods:fedavg", hyperparameters={"setting": value})
    except ValidationError:
        return
    read = TrainingPlan.model_validate_json(taken.model_dump_json())
    assert read.hyperparameters == {"setting": value}
    assert type(read.hyperparameters["setting"]) is type(value)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (
            "learning_rte",
            0.1,
            "hyperparameters.learning_rte\n  unknown hyperparameter; the closest are learning_rate",
        ),
        ("epochs", 0, "greater than or equal to 1"),
        ("epochs", 1.5, "valid integer"),
        ("head_epochs", -1, "greater than or equal to 0"),
        ("embedding_size", 4097, "less than or equal to 4096"),
        ("hidden_size", 0, "greater than or equal to 1"),
        ("feature_scale", 0.0, "greater than 0"),
        ("output_spread", 1.1, "less than or equal to 1"),
        ("learning_rate", 0.0, "greater than 0"),
        ("head_learning_rate", 101.0, "less than or equal to 100"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("momentum", 1.0, "less than 1"),
        ("weight_decay", -0.1, "greater than or equal to 0"),
        ("clip_norm", 0.0, "greater than 0"),
        ("clip_norm", float("nan"), "finite number"),
    ],
)
def test_a_setting_out_of_its_bounds_is_refused_by_name(
    setting: str, value: float, message: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        plan(hyperparameters={setting: value})
    assert setting in str(refusal.value)
    assert message in str(refusal.value)


def test_no_setting_and_an_own_method_keep_what_is_given() -> None:
    given = {"anything": True, "learning_rate": -1.0, "name": "x", "count": 3}
    assert plan(method="package.module:name", hyperparameters=given).hyperparameters == given
    assert plan(method="package.module:name").hyperparameters == {}


@pytest.mark.parametrize("method", KNOWN_METHODS)
def test_a_known_methods_own_plan_checks_its_settings(method: str) -> None:
    own = KNOWN_METHODS[method].plan
    needed: dict[str, Any] = {"rounds": 2, "backbone_digest": "sha256:" + "0" * 64}
    given = {name: value for name, value in needed.items() if name in own.model_fields}
    filled = plan(method=method, hyperparameters=given).hyperparameters
    assert filled == {
        name: value
        for name, value in own.model_validate(given).model_dump().items()
        if value is not None
    }
    assert filled.keys() > given.keys()
    with pytest.raises(ValidationError, match="no_such_setting"):
        plan(method=method, hyperparameters=given | {"no_such_setting": 1})


def test_which_plan_checks_a_method_is_not_for_others_to_change() -> None:
    with pytest.raises(TypeError):
        KNOWN_METHODS["local"] = KNOWN_METHODS["hyperfl"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_shape": [1, 0, 28]}, r"image_shape \[1, 0, 28\] must be positive"),
        ({"image_shape": [-1, 28, 28]}, "must be positive"),
        ({"image_shape": [28, 28]}, r"\[channels, height, width\], or \[length\] of a vector"),
        ({"num_classes": 1}, "greater than or equal to 2"),
        ({"num_classes": 100_001}, "less than or equal to 100000"),
        ({"hyperparameters": None}, "valid dictionary"),
        ({"hyperparameters": [1]}, "valid dictionary"),
        ({"method": "a:" + "b" * 199}, "at most 200 characters"),
        ({"model": "m" * 201}, "at most 200 characters"),
        ({"method": 3}, "valid string"),
        ({"optimiser": "adam"}, "Extra inputs are not permitted"),
        (
            {"method": "a:b", "hyperparameters": {str(index): 1 for index in range(101)}},
            "at most 100 items",
        ),
        ({"method": "a:b", "hyperparameters": {"x": [1]}}, r"hyperparameters\.x"),
    ],
)
def test_a_malformed_plan_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan(**changed)


@pytest.mark.parametrize("document", [None, [], "hyperfl", 3])
def test_a_plan_that_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(ValidationError, match="valid dictionary"):
        TrainingPlan.model_validate(document)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        plan().method = "local"


def lpm(model: str, **hyperparameters: Any) -> TrainingPlan:
    digest = {"backbone_digest": "sha256:" + "a" * 64}
    return plan(method="hyperfl-lpm", model=model, hyperparameters=digest | hyperparameters)


@pytest.mark.parametrize("model", ["vit:vit_small_patch16_384", "resnet18"])
def test_adapters_have_settings_of_their_own(model: str) -> None:
    taken = lpm(model)
    assert taken.hyperparameters["learning_rate"] == 0.01
    assert taken.hyperparameters["batch_size"] == 16
    assert taken.hyperparameters["backbone_weights"] == "hub"
    assert TrainingPlan.model_validate_json(taken.model_dump_json()) == taken
    assert lpm(model, learning_rate=0.3).hyperparameters["learning_rate"] == 0.3


@pytest.mark.parametrize("digest", [None, "", "sha256:abc", "md5:" + "a" * 64])
def test_a_plan_without_the_digest_of_its_backbone_is_refused(digest: str | None) -> None:
    given = {} if digest is None else {"backbone_digest": digest}
    with pytest.raises(ValidationError, match="backbone_digest"):
        plan(method="hyperfl-lpm", model="resnet18", hyperparameters=given)


def private_plan(**hyperparameters: Any) -> TrainingPlan:
    return plan(method="dp-fedavg", hyperparameters={"rounds": 7} | hyperparameters)


def test_sample_rate_and_noise_are_agreed_on_together_or_left_out() -> None:
    left_out = private_plan().hyperparameters
    assert not left_out.keys() & {"sample_rate", "noise_multiplier"}
    agreed = private_plan(sample_rate=1, noise_multiplier=1.5)
    assert agreed.hyperparameters == left_out | {"sample_rate": 1.0, "noise_multiplier": 1.5}
    assert TrainingPlan.model_validate_json(agreed.model_dump_json()) == agreed
    for alone in ({"sample_rate": 0.5}, {"noise_multiplier": 1.0}):
        with pytest.raises(
            ValidationError, match="give both sample_rate and noise_multiplier, or neither"
        ):
            private_plan(**alone)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("sample_rate", 0.0, "greater than 0"),
        ("sample_rate", 1.5, "less than or equal to 1"),
        ("sample_rate", float("nan"), "finite number"),
        ("noise_multiplier", 0.0, "greater than 0"),
        ("noise_multiplier", float("inf"), "finite number"),
        ("epsilon", float("nan"), "finite number"),
        ("delta", float("nan"), "finite number"),
        ("learning_rate", float("nan"), "finite number"),
    ],
)
def test_what_is_agreed_on_has_bounds(setting: str, value: float, message: str) -> None:
    given = {"sample_rate": 0.5, "noise_multiplier": 1.0} | {setting: value}
    with pytest.raises(ValidationError) as refusal:
        private_plan(**given)
    (error,) = refusal.value.errors()
    assert error["loc"] == ("hyperparameters", setting)
    assert message in error["msg"]


def test_rounds_are_planned_where_noise_is_made_for_them() -> None:
    private = plan(method="dp-fedavg", hyperparameters={"rounds": 7})
    assert private.planned_rounds == 7
    assert plan().planned_rounds is None
    assert plan(method="a:b", hyperparameters={"rounds": 7}).planned_rounds is None
    with pytest.raises(ValidationError, match="rounds\n  Field required"):
        plan(method="centaur")


def test_classes_may_be_named_in_unicodes_normal_form() -> None:
    named = plan(num_classes=2, class_names=["be\u0301nin", "malin"])
    assert named.class_names == ("b\u00e9nin", "malin")
    assert named.model_dump(mode="json")["class_names"] == ["b\u00e9nin", "malin"]


def test_a_plan_that_names_no_classes_has_the_document_that_it_always_had() -> None:
    assert plan().class_names is None
    assert "class_names" not in plan().model_dump()
    assert "class_names" not in plan().model_dump_json()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "class_names: expected 2 names, found 1"),
        (["a", ""], "class_names.1 must have 1 to 200 characters"),
        (["a", "b" * 201], "class_names.1 must have 1 to 200 characters"),
        (["a", "b\n"], "class_names.1 must be printable, with no space at an end"),
        (["a", " b"], "class_names.1 must be printable, with no space at an end"),
        (["\u00e9", "e\u0301"], "class_names.1 is '\u00e9', as class_names.0 is"),
    ],
)
def test_names_that_nobody_could_compare_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        plan(num_classes=2, class_names=names)


def test_the_page_has_the_settings_of_the_papers() -> None:
    page = (Path(__file__).parents[4] / "docs" / "methods.md").read_text()
    table = page.partition("## Settings of the papers")[2].partition("\n\n## ")[0]
    rows = dict(
        line.strip("| ").split(" | ")[:2] for line in table.splitlines() if line.startswith("| `")
    )
    assert rows == {
        f"`{method}`": ", ".join(f"`{name}={value}`" for name, value in presets["paper"].items())
        for method, presets in PRESETS.items()
        if "paper" in presets
    }
