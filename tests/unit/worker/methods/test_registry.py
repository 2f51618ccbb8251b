"""Methods by name or import path."""

from __future__ import annotations

import pytest
import torch

from shared.plans import TrainingPlan
from tests.support.random_clients import tiny_plan
from worker.methods import build_method
from worker.methods.base import Method
from worker.methods.hyperfl import HyperFL

CPU = torch.device("cpu")


def own_method(plan: TrainingPlan, device: torch.device) -> Method:
    return HyperFL(plan.model_copy(update={"method": "hyperfl"}), device)


def plan_for(method: str) -> TrainingPlan:
    return tiny_plan().model_copy(update={"method": method})


def test_hyperfl_is_known() -> None:
    assert isinstance(build_method(tiny_plan(), CPU), HyperFL)


def test_a_method_of_the_user_is_loaded_by_import_path() -> None:
    assert isinstance(build_method(plan_for(f"{__name__}:own_method"), CPU), HyperFL)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("hyperfll", "does not know the method 'hyperfll'"),
        ("tests.support.no_such_module:method", "cannot import 'tests.support.no_such_module'"),
        ("tests.support.extractors:missing", "has no 'missing'"),
        ("tests.support.extractors:NOT_A_FUNCTION", "neither a class nor a function"),
        (":method", "not an import path"),
    ],
)
def test_a_method_that_cannot_be_built_is_a_clear_error(method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method(plan_for(method), CPU)
