"""Methods by name or import path."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared.federation.hyperparameters import ModelPlan
from shared.federation.model_names import CNNS
from shared.federation.plans import KNOWN_METHODS, TrainingPlan, takes_backbone
from shared.federation.sharing import check_shared_names
from shared.federation.specification import ParameterSpecification
from tests.support.backbones import IMAGE_SHAPE, random_digest
from tests.support.random_clients import RESOURCES, tiny_plan
from worker.errors import ImportNotAllowed, MethodError, ModelError
from worker.methods import build_method
from worker.methods.fedavg import FedAvg
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Method, SiteResources
from worker.methods.registry import METHODS
from worker.models.registry import default_image_shape

CPU = torch.device("cpu")


GIVEN: list[SiteResources] = []


class Own(HyperFL):
    def __init__(self, plan: TrainingPlan, device: torch.device, resources: SiteResources) -> None:
        GIVEN.append(resources)
        super().__init__(plan.model_copy(update={"method": "hyperfl"}), device, resources)


class Raising(FedAvg):
    def __init__(self, plan: TrainingPlan, device: torch.device, resources: SiteResources) -> None:
        raise KeyError("scanner\nof site A")


class WithTwoArguments(FedAvg):
    def __init__(self, plan: TrainingPlan, device: torch.device) -> None:
        super().__init__(plan, device)


class NoMethod:
    def __init__(self, *arguments: object) -> None:
        raise AssertionError("it is called")


def own_function(*arguments: object) -> Method:
    raise AssertionError("it is called")


class StrictPlan(FedAvg):
    def __init__(self, plan: TrainingPlan, device: torch.device, resources: SiteResources) -> None:
        ModelPlan.model_validate({"learning_rate": -1.0})


class WithoutAModel(HyperFL):
    def __init__(self, plan: TrainingPlan, device: torch.device, resources: SiteResources) -> None:
        super().__init__(plan.model_copy(update={"model": "cnn-mnis"}), device, resources)


class Ending(FedAvg):
    def __init__(self, *arguments: object) -> None:
        sys.exit()


class HalfMade(FedAvg):
    def parameters(self, seed: int) -> ParameterSpecification:
        raise NotImplementedError


def plan_for(method: str) -> TrainingPlan:
    return tiny_plan().model_copy(update={"method": method})


def test_hyperfl_is_known() -> None:
    assert isinstance(build_method(tiny_plan(), CPU, RESOURCES), HyperFL)


def test_a_method_of_the_user_is_loaded_by_import_path() -> None:
    resources = replace(RESOURCES, backbone_weights_file=Path("backbone.safetensors"))
    built = build_method(plan_for(f"{__name__}:Own"), CPU, resources)
    assert isinstance(built, HyperFL)
    assert GIVEN[-1] is resources


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raising", "building '{}' failed: KeyError: 'scanner\\nof site A'"),
        (
            "WithTwoArguments",
            "building '{}' failed: TypeError: WithTwoArguments.__init__() takes 3 positional "
            "arguments but 4 were given",
        ),
        (
            "NoMethod",
            "'{}' is not a method: it lacks parameters, initial_private, check_private, "
            "evaluate, train",
        ),
        ("own_function", "'{}' is not a class, as a method must be"),
        ("Ending", "building '{}' failed: it asked to end the process, with exit code 0"),
        ("StrictPlan", "building '{}' failed: learning_rate: Input should be greater than 0"),
        ("HalfMade", "building '{}' failed: NotImplementedError"),
    ],
)
def test_what_a_method_of_the_user_does_wrong_is_one_line(name: str, message: str) -> None:
    path = f"{__name__}:{name}"
    with pytest.raises(MethodError) as caught:
        build_method(plan_for(path).model_copy(update={"hyperparameters": {}}), CPU, RESOURCES)
    assert str(caught.value) == message.format(path)


def test_a_method_without_a_module_is_no_import_path() -> None:
    with pytest.raises(ImportNotAllowed, match="':method' is not an import path"):
        build_method(plan_for(":method"), CPU, RESOURCES)


@pytest.mark.parametrize(
    ("method", "model", "named"),
    [
        ("huggingface_hub:logout", "cnn-mnist", ["huggingface_hub:logout"]),
        ("hyperfl", "os:abort", ["os:abort"]),
        ("fedavg", "sys:exit", ["sys:exit"]),
        ("huggingface_hub:logout", "os:abort", ["huggingface_hub:logout", "os:abort"]),
    ],
)
def test_nothing_is_imported_that_the_site_has_not_allowed(
    method: str, model: str, named: list[str]
) -> None:
    plan = tiny_plan().model_copy(update={"method": method, "model": model})
    with pytest.raises(ImportNotAllowed) as refused:
        build_method(plan, CPU)
    line = f"allowed_imports = {json.dumps(named)}"
    assert str(refused.value).endswith(f"write into worker.toml: {line}")


def test_what_is_wrong_with_the_model_is_said_as_it_is() -> None:
    with pytest.raises(ModelError, match="cnn-mnis"):
        build_method(plan_for(f"{__name__}:WithoutAModel"), CPU, RESOURCES)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("hyperfll", "does not know the method 'hyperfll'"),
        ("tests.support.no_such_module:method", "cannot import 'tests.support.no_such_module'"),
        ("tests.support.extractors:missing", "has no 'missing'"),
        ("tests.support.extractors:NOT_A_FUNCTION", "is not a class, as a method must be"),
    ],
)
def test_a_method_that_cannot_be_built_is_a_clear_error(method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method(plan_for(method), CPU, RESOURCES)


BACKBONES = ("vit:test_vit", "resnet18", "resnet:test_resnet")


@pytest.mark.parametrize(
    ("method", "model"),
    [
        (method, model)
        for method in KNOWN_METHODS
        for model in (BACKBONES if takes_backbone(method) else CNNS)
        if method != "fedbn"
    ],
)
def test_methods_share_what_the_coordinator_expects_of_them(method: str, model: str) -> None:
    hyperparameters: dict[str, str | int] = {}
    shape = IMAGE_SHAPE if takes_backbone(method) else default_image_shape(model)
    assert shape is not None
    if takes_backbone(method):
        digest = random_digest(model, shape)
        hyperparameters = {"backbone_weights": "random", "backbone_digest": digest}
    elif "rounds" in KNOWN_METHODS[method].plan.model_fields:
        hyperparameters = {"rounds": 1}
    plan = TrainingPlan(
        method=method,
        model=model,
        image_shape=shape,
        num_classes=3,
        hyperparameters=hyperparameters,
    )
    built = build_method(plan, torch.device("cpu"))
    check_shared_names(method, model, built.parameters(seed=1).by_name.keys())


def test_every_known_method_has_a_plan_and_every_plan_a_method() -> None:
    assert METHODS.keys() == KNOWN_METHODS.keys()
    assert {name for name in KNOWN_METHODS if takes_backbone(name)} == {
        "hyperfl-lpm",
        "fedavg-adapter",
        "local-adapter",
        "fedavg-fixed",
        "local-fixed",
    }
