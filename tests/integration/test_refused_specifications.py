"""Specifications that no worker could take, refused when they are posted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.specifications import tiny_specification

pytestmark = [pytest.mark.integration, on_sqlite]
DIGEST = {"backbone_digest": "sha256:" + "a" * 64}


def tensor(name: str) -> dict[str, Any]:
    return {"name": name, "shape": [1], "initialisation": [{"rows": 1}]}


async def post(
    coordinator: RunningCoordinator, *names: str, replace: bool = False, **training: Any
) -> httpx.Response:
    """The tiny federation with tensors added to it, or in the place of its own."""
    document = tiny_specification().model_dump(mode="json")
    document["training"] |= {"hyperparameters": {}} | training
    parameters = document["parameters"]
    tensors = [] if replace else parameters["tensors"]
    document["parameters"] = parameters | {"tensors": [*tensors, *map(tensor, names)]}
    return await coordinator.http.post("/v1/federations", json=document, headers=coordinator.admin)


@pytest.mark.parametrize(
    ("names", "training", "where", "what"),
    [
        ((), {"model": "cnn-mnits"}, "body.training", "the closest are cnn-mnist"),
        (
            (),
            {"method": "hyperfl-lpm", "model": "vit:vit_smal", "hyperparameters": DIGEST},
            "body.training",
            "the closest are vit:",
        ),
        (
            (),
            {"method": "hyperfl-lpm", "model": "cnn-mnist", "hyperparameters": DIGEST},
            "body.training",
            "method hyperfl-lpm trains on a frozen backbone",
        ),
        ((), {"model": "resnet18"}, "body.training", "is a frozen backbone"),
        ((), {"method": "non sense:thing"}, "body.training", "package.module:name"),
        (("embedding",), {}, "body", "parameters.tensors: tensor embedding is not shared"),
        (
            (),
            {"method": "hyperfl-lpm", "model": "resnet18"},
            "body.training.hyperparameters.backbone_digest",
            "Field required: `hyperfl worker specify` computes it",
        ),
        (
            (),
            {"hyperparameters": {"epoch": 3}},
            "body.training.hyperparameters.epoch",
            "unknown hyperparameter; the closest are epochs",
        ),
    ],
)
async def test_what_no_worker_could_take_is_422_and_leaves_nothing(
    coordinator: RunningCoordinator,
    names: tuple[str, ...],
    training: dict[str, Any],
    where: str,
    what: str,
) -> None:
    refused = await post(coordinator, *names, **training)
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["where"] == where
    assert what in error["what"]
    listed = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
    assert listed.json() == []


async def test_private_and_missing_tensors_are_named(coordinator: RunningCoordinator) -> None:
    budget = {"hyperparameters": {"rounds": 2}}
    shared = ("extractor.w", "head.weight", "head.bias")
    refused = await post(coordinator, *shared, replace=True, method="centaur", **budget)
    assert refused.status_code == 422
    assert "tensor head.bias is not shared by method centaur" in refused.text
    refused = await post(coordinator, *shared[:2], replace=True, method="dp-fedavg", **budget)
    assert refused.status_code == 422
    assert "tensor head.bias, which method dp-fedavg shares" in refused.text


async def test_an_own_method_may_share_anything(coordinator: RunningCoordinator) -> None:
    taken = await post(coordinator, "anything", method="nonsense:thing")
    assert taken.status_code == 201, taken.text
