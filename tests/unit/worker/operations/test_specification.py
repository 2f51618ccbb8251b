"""Specifications made from a method, a model and a data set's shape."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from shared.federation.hyperparameters import ModelPlan
from shared.federation.plans import KNOWN_METHODS, PRESETS, UnknownPresetError
from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from shared.privacy_accountant import PrivacyBudget, PrivacyBudgetError, least_noise_multiplier
from tests.support.backbones import VIT
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES
from worker.errors import ConfigError, DataError
from worker.methods.fedavg import FedAvg
from worker.models.backbone_weights import pin_backbone
from worker.models.backbones import find_backbone
from worker.models.registry import ModelError
from worker.operations.key_values import parse_settings
from worker.operations.specification import (
    build_specification,
    choose_hyperparameters,
    choose_image_shape,
)
from worker.operations.specification_request import SpecificationRequest
from worker.operations.specified_classes import choose_classes


class OwnPlan(ModelPlan):
    pull: float = 0.01


class OwnMethod(FedAvg):
    plan_type = OwnPlan


def test_an_own_methods_defaults_are_recorded() -> None:
    own = f"{__name__}:OwnMethod"
    found = specification(method=own, hyperparameters={"epochs": 2}).training.hyperparameters
    assert found == OwnPlan(epochs=2).model_dump()
    assert found["pull"] == 0.01


def specification(**changes: Any) -> FederationSpecification:
    arguments: dict[str, Any] = {
        "method": "hyperfl",
        "model": "tests.support.extractors:tiny",
        "image_shape": IMAGE_SHAPE,
        "num_classes": NUM_CLASSES,
        "hyperparameters": {"embedding_size": 6, "hidden_size": 4},
        "round_policy": RoundPolicy(rounds=5),
        "encoding": EncodingPlan(),
        "seed": 11,
    }
    return build_specification("hospitals", **arguments | changes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-2", -2),
        ("0.5", 0.5),
        ("1e-4", 1e-4),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("adam", "adam"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_a_setting_is_a_number_or_a_truth_value_where_it_can_be(text: str, value: object) -> None:
    parsed = parse_settings([f"key={text}"])
    assert parsed == {"key": value}
    assert type(parsed["key"]) is type(value)


def test_settings_are_collected() -> None:
    assert parse_settings([]) == {}
    assert parse_settings(["epochs=2", "learning_rate=0.1"]) == {"epochs": 2, "learning_rate": 0.1}


@pytest.mark.parametrize("setting", ["epochs", "=3", ""])
def test_what_is_no_setting_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"--set must be KEY=VALUE, not {setting}"):
        parse_settings([setting])


def test_a_preset_is_taken_and_settings_replace_it() -> None:
    paper = choose_hyperparameters("hyperfl", "paper", [], 200)
    assert paper == {
        "embedding_size": 64,
        "hidden_size": 128,
        "feature_scale": 1.0,
        "learning_rate": 0.02,
        "weight_decay": 5e-4,
        "feature_dropout": 0.0,
        "clip_norm": 50.0,
    }
    changed = choose_hyperparameters("hyperfl", "paper", ["learning_rate=0.5", "epochs=2"], 200)
    assert changed == paper | {"learning_rate": 0.5, "epochs": 2}
    assert choose_hyperparameters("hyperfl", "paper", [], 200) == paper, "the preset itself is kept"
    assert choose_hyperparameters("hyperfl", None, ["epochs=2"], 200) == {"epochs": 2}


def test_a_presets_learning_rate_falls_until_the_last_round_unless_it_is_said() -> None:
    assert choose_hyperparameters("hyperfl", "aligned", [], 60)["decay_rounds"] == 60
    said = choose_hyperparameters("hyperfl", "aligned", ["decay_rounds=90"], 60)
    assert said["decay_rounds"] == 90
    assert "decay_rounds" not in choose_hyperparameters("hyperfl", "paper", [], 60)


@pytest.mark.parametrize("method", sorted(KNOWN_METHODS))
def test_every_preset_is_a_plan_and_default_is_the_plans_own(method: str) -> None:
    needed: dict[str, Any] = {"rounds": 2, "backbone_digest": "sha256:" + "0" * 64}
    needed = {
        name: value
        for name, value in needed.items()
        if name in KNOWN_METHODS[method].plan.model_fields
    }
    for name, hyperparameters in PRESETS[method].items():
        chosen = choose_hyperparameters(method, name, [], 200)
        made = KNOWN_METHODS[method].plan.model_validate(needed | chosen)
        assert made.model_dump().items() >= hyperparameters.items()
    assert choose_hyperparameters(method, "default", [], 200) == choose_hyperparameters(
        method, None, [], 200
    )


def test_an_unknown_preset_gets_the_closest_names() -> None:
    with pytest.raises(UnknownPresetError, match=r"'papr' of method 'hyperfl'.*are paper, default"):
        choose_hyperparameters("hyperfl", "papr", [], 200)
    with pytest.raises(UnknownPresetError, match="the method has none"):
        choose_hyperparameters("own.methods:mine", "paper", [], 200)


def test_a_given_image_shape_is_taken() -> None:
    assert choose_image_shape("3x48x64", "cnn-mnist", "digits") == (3, 48, 64)


@pytest.mark.parametrize("given", ["3x32", "3x32x32x1", "3,32,32", "3x-2x2", "3x3.5x2", "²x1x1"])
def test_what_is_no_image_shape_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=f"--image-shape must be CxHxW.*, not {given}"):
        choose_image_shape(given, "cnn-mnist", None)


def test_a_built_in_model_brings_its_image_shape() -> None:
    assert choose_image_shape(None, "cnn-mnist", "cifar10") == (1, 28, 28)
    assert choose_image_shape(None, "cnn-cifar", None) == (3, 32, 32)


def test_a_model_of_ones_own_takes_the_data_sets_images() -> None:
    assert choose_image_shape(None, "radiology.models:extractor", "digits") == (1, 8, 8)


@pytest.mark.parametrize("dataset", [None, "image-folder"])
def test_an_image_shape_that_nobody_knows_must_be_given(dataset: str | None) -> None:
    with pytest.raises(ConfigError, match="images that own:f takes with --image-shape"):
        choose_image_shape(None, "own:f", dataset)


def test_an_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="unknown model 'cnn-minst'"):
        choose_image_shape(None, "cnn-minst", None)


def test_the_number_of_classes_is_given_or_the_data_sets(tmp_path: Path) -> None:
    for name in ("benign", "malignant", "none"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").touch()
    names = ("benign", "malignant", "none")
    assert choose_classes(request(num_classes=4, dataset="digits")) == (4, None)
    assert choose_classes(request(dataset="digits")) == (10, tuple("0123456789"))
    assert choose_classes(request(dataset="image-folder", data_dir=tmp_path)) == (3, names)
    assert choose_classes(request(classes_from=tmp_path)) == (3, names)


def request(**said: Any) -> SpecificationRequest:
    return SpecificationRequest(
        "hospitals", "hyperfl", "cnn-cifar", RoundPolicy(rounds=1), 1, **said
    )


def test_classes_are_named_in_a_list_or_in_a_file(tmp_path: Path) -> None:
    assert choose_classes(request(classes="nv, mel,bcc")) == (3, ("nv", "mel", "bcc"))
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffbe\u0301nin\r\nT-shirt, top\r\n\r\n".encode())
    expected = (2, ("b\u00e9nin", "T-shirt, top"))
    assert choose_classes(request(classes=str(file))) == expected
    assert choose_classes(request(classes=str(file), num_classes=2)) == expected


def test_classes_that_are_said_twice_and_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--num-classes is 3, and 2 classes are named: a, b"):
        choose_classes(request(classes="a,b", num_classes=3))
    with pytest.raises(ConfigError, match="give --classes or --classes-from, not both"):
        choose_classes(request(classes="a,b", classes_from=tmp_path))


def test_a_file_of_classes_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--classes must be an existing file .* not none\.txt"):
        choose_classes(request(classes="none.txt"))
    (tmp_path / "wide.txt").write_text("a\nb", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"--classes: .*wide\.txt is UTF-16: save it as UTF-8"):
        choose_classes(request(classes=str(tmp_path / "wide.txt")))


def test_a_number_of_classes_that_nobody_knows_must_be_given() -> None:
    with pytest.raises(ConfigError, match="with --num-classes, or a --dataset"):
        choose_classes(request())
    with pytest.raises(DataError, match="found 'digit'"):
        choose_classes(request(dataset="digit"))


def test_the_classes_named_are_in_the_specification() -> None:
    made = specification(class_names=("a", "b", "c"))
    assert made.document["training"]["class_names"] == ["a", "b", "c"]
    assert "class_names" not in specification().document["training"]


def test_the_methods_tensors_are_what_the_federation_shares() -> None:
    made = specification()
    assert {tensor.name: tensor.shape for tensor in made.parameters.tensors} == {
        "hypernetwork.trunk.weight": (4, 6),
        "hypernetwork.trunk.bias": (4,),
        "hypernetwork.output.weight": (101, 4),
        "hypernetwork.output.bias": (101,),
    }
    assert made.parameters.seed == 11
    assert made.name == "hospitals"
    assert made.training.hyperparameters["epochs"] == 5, "defaults are written out"


def test_the_same_specification_is_made_again() -> None:
    assert specification().document == specification().document
    assert specification().document != specification(seed=12).document


@pytest.mark.parametrize("clip_norm", [3.0, math.inf])
def test_a_specification_is_refused_or_survives_its_json(clip_norm: float) -> None:
    try:
        made = specification(hyperparameters={"clip_norm": clip_norm})
    except ValidationError:
        return
    assert FederationSpecification.model_validate_json(made.model_dump_json(indent=1)) == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (0, 4, 4)}, "every size of image_shape"),
        ({"num_classes": 1}, "num_classes"),
        ({"hyperparameters": {"epoch": 3}}, "epoch"),
        ({"hyperparameters": {"epochs": 0}}, "epochs"),
        ({"hyperparameters": {"learning_rate": math.nan}}, "learning_rate"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        specification(**changes)


def test_a_model_that_does_not_take_the_images_is_refused() -> None:
    with pytest.raises(ModelError, match="does not take images of 1×8×8"):
        specification(image_shape=(1, 8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "hyperfll"}, "unknown method 'hyperfll'; the closest are hyperfl"),
        ({"model": "cnn-mnits"}, "unknown model 'cnn-mnits'; the closest are cnn-mnist"),
        ({"method": "hyperfl-lpm"}, "hyperfl-lpm trains on a frozen backbone, which .* is not"),
        ({"model": "resnet101"}, "train it with hyperfl-lpm, "),
    ],
)
def test_names_are_checked_before_anything_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        specification(**changes)


LPM = {"method": "hyperfl-lpm", "model": VIT, "image_shape": (3, 32, 32)}


def test_a_backbones_weights_are_pinned() -> None:
    training = specification(**LPM, backbone_weights="random").training
    assert training.hyperparameters["backbone_weights"] == "random"
    assert training.hyperparameters["backbone_digest"] == pin_backbone(
        VIT, (3, 32, 32), "random", None
    )


def test_a_backbone_from_a_file_is_pinned_without_its_path(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(find_backbone(VIT).build((3, 32, 32), from_hub=False).state_dict(), file)
    found = specification(**LPM, backbone_weights=str(file))
    assert found.training.hyperparameters["backbone_weights"] == "file"
    assert str(tmp_path) not in found.model_dump_json()


def test_a_word_that_is_neither_a_source_nor_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="hub, random or an existing file, not rnadom"):
        specification(**LPM, backbone_weights="rnadom")


def test_backbone_weights_without_a_backbone_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods hyperfl-lpm, .*, not for hyperfl$"):
        specification(backbone_weights="random")


def test_a_method_with_a_privacy_budget_plans_for_the_policys_rounds() -> None:
    arguments: dict[str, Any] = {
        "method": "dp-fedavg",
        "model": "tests.support.extractors:tiny_without_normalisation",
    }
    found = specification(**arguments, hyperparameters={})
    assert found.training.hyperparameters["rounds"] == found.round_policy.rounds == 5
    with pytest.raises(ValidationError, match=r"rounds is 4, fewer than round_policy\.rounds 5"):
        specification(**arguments, hyperparameters={"rounds": 4})
    spare = specification(**arguments, hyperparameters={"rounds": 7})
    assert (spare.training.hyperparameters["rounds"], spare.round_policy.rounds) == (7, 5)


PRIVATE: dict[str, Any] = {
    "method": "dp-fedavg",
    "model": "tests.support.extractors:tiny_without_normalisation",
}


def test_examples_per_client_agree_on_sample_rate_and_noise() -> None:
    found = specification(**PRIVATE, hyperparameters={}, examples_per_client=601)
    agreed = found.training.hyperparameters
    assert agreed["sample_rate"] == 50 / 601
    assert agreed["noise_multiplier"] == least_noise_multiplier(
        PrivacyBudget(4.0, 1e-5, 50 / 601, 5 * 5 * 12)
    )
    given = {name: agreed[name] for name in ("sample_rate", "noise_multiplier")}
    assert specification(**PRIVATE, hyperparameters=given) == found


@pytest.mark.parametrize(
    ("changes", "examples_per_client", "message"),
    [
        (
            {"sample_rate": 0.1, "noise_multiplier": 0.3},
            None,
            r"needs a noise multiplier of 1\.9.*, but 0\.3 is agreed$",
        ),
        ({"sample_rate": 0.1, "noise_multiplier": 3}, 600, "give --examples-per-client, or "),
        ({}, 40, "batch_size 50 with 40 examples per client is a sample rate of 1.25, which is"),
        ({"epsilon": 0.104, "rounds": 10**6, "epochs": 1000}, 50, "in 1000000000 steps"),
    ],
)
def test_what_cannot_be_agreed_on_is_refused(
    changes: dict[str, Any], examples_per_client: int | None, message: str
) -> None:
    with pytest.raises((ConfigError, PrivacyBudgetError), match=message):
        specification(**PRIVATE, hyperparameters=changes, examples_per_client=examples_per_client)


def test_examples_per_client_without_a_budget_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods dp-fedavg, centaur, ppsgd, not for hyperfl$"):
        specification(examples_per_client=600)


def test_local_training_shares_nothing() -> None:
    found = specification(method="local", hyperparameters={})
    assert found.parameters.tensors == ()
