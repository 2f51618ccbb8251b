"""The names in ``shared``, which knows no torch, against what timm and this worker have."""

from __future__ import annotations

import pytest
import torch

from shared.catalogue import CNNS, check_shared_names
from shared.plans import PLANS, TrainingPlan, takes_backbone
from tests.support import timm_names
from tests.support.backbones import IMAGE_SHAPE
from worker.methods import build_method
from worker.models.backbone_weights import pin_backbone
from worker.models.registry import default_image_shape

BACKBONES = ("vit:test_vit", "resnet18", "resnet:test_resnet")


def test_the_names_are_those_of_the_installed_timm() -> None:
    assert timm_names.FILE.read_text() == timm_names.source(), (
        "timm has other models than shared/timm_models.py says: "
        "write it anew with python -m tests.support.timm_names"
    )


@pytest.mark.parametrize(
    ("method", "model"),
    [
        (method, model)
        for method in PLANS
        for model in (BACKBONES if takes_backbone(method) else CNNS)
    ],
)
def test_methods_share_what_the_catalogue_says(method: str, model: str) -> None:
    hyperparameters: dict[str, str | int] = {}
    shape = IMAGE_SHAPE if takes_backbone(method) else default_image_shape(model)
    assert shape is not None
    if takes_backbone(method):
        digest = pin_backbone(model, shape, "random", None)
        hyperparameters = {"backbone_weights": "random", "backbone_digest": digest}
    elif "rounds" in PLANS[method].model_fields:
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
