"""What a federation under differential privacy says of its budget, and which budgets it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from shared.arrays import NamedArrays
from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from shared.privacy_accountant import PrivacyBudget, least_noise_multiplier
from tests.support.coordinator import RunningCoordinator, on_sqlite
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from tests.support.updates import update_bytes
from worker.methods import build_method
from worker.methods.interface import Method, Participant, TrainingResult
from worker.operations.specification import build_specification

pytestmark = [pytest.mark.integration, on_sqlite]

METHODS = ("dp-fedavg", "centaur", "ppsgd")
ROUNDS, EPOCHS, BATCH_SIZE = 3, 2, 5


def private_specification(
    method: str, examples_per_client: int | None = None
) -> FederationSpecification:
    return build_specification(
        "private",
        method=method,
        model="tests.support.extractors:tiny_without_normalisation",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={
            "epsilon": 2.5,
            "delta": 1e-4,
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
        },
        round_policy=RoundPolicy(rounds=ROUNDS, evaluate_final=False),
        encoding=EncodingPlan(name="dense"),
        seed=1,
        examples_per_client=examples_per_client,
    )


def train(method: Method, weights: NamedArrays, name: str, num_examples: int) -> TrainingResult:
    data = random_client_data(1, num_examples)
    participant = Participant(name, data, method.initial_private(1), 1)
    (result,) = method.train([participant], weights, 1, lambda: False)
    return result


@pytest.mark.parametrize("name", METHODS)
async def test_a_rounds_report_has_every_clients_privacy_parameters(
    coordinator: RunningCoordinator, name: str
) -> None:
    specification = private_specification(name)
    method = build_method(specification.training, torch.device("cpu"), RESOURCES)
    weights = specification.parameters.initial_values()
    num_examples = {"a": 13, "b": 40}
    await coordinator.started(specification, *num_examples)
    for client, count in num_examples.items():
        task = await coordinator.task("private", client)
        result = train(method, weights, client, count)
        body = update_bytes(
            specification, task, dict(result.deltas), num_examples=count, metrics=result.metrics
        )
        assert (await coordinator.put(task, body)).status_code == 201
    await coordinator.driver.step()

    agreed = (await coordinator.show("private"))["specification"]["training"]["hyperparameters"]
    assert (agreed["epsilon"], agreed["delta"], agreed["rounds"]) == (2.5, 1e-4, ROUNDS)
    assert (agreed["batch_size"], agreed["epochs"], agreed["clip_norm"]) == (5, 2, 0.04)
    report = await coordinator.show("private/rounds/1")
    assert report["phase"] == "committed"
    for assignment in report["assignments"]:
        count = num_examples[assignment["client"]]
        steps = EPOCHS * -(-count // BATCH_SIZE)
        rate = BATCH_SIZE / count
        sigma = least_noise_multiplier(PrivacyBudget(2.5, 1e-4, rate, ROUNDS * steps))
        found = {key: assignment["metrics"][key] for key in agreed.keys() & {"epsilon", "delta"}}
        assert found == {"epsilon": 2.5, "delta": 1e-4}
        assert assignment["metrics"]["noise_multiplier"] == sigma
        assert assignment["metrics"]["sample_rate"] == rate
        assert assignment["metrics"]["private_steps"] == steps
    assert report["metrics"]["epsilon"] == 2.5
    assert report["metrics"]["sample_rate"] == pytest.approx((5 / 13 + 5 / 40) / 2)


@pytest.mark.parametrize("name", METHODS)
async def test_what_is_agreed_at_creation_is_in_every_report(
    coordinator: RunningCoordinator, name: str
) -> None:
    specification = private_specification(name, examples_per_client=20)
    method = build_method(specification.training, torch.device("cpu"), RESOURCES)
    weights = specification.parameters.initial_values()
    num_examples = {"a": 13, "b": 40}
    await coordinator.started(specification, *num_examples)
    for client, count in num_examples.items():
        task = await coordinator.task("private", client)
        result = train(method, weights, client, count)
        body = update_bytes(
            specification, task, dict(result.deltas), num_examples=count, metrics=result.metrics
        )
        assert (await coordinator.put(task, body)).status_code == 201
    await coordinator.driver.step()
    agreed = (await coordinator.show("private"))["specification"]["training"]["hyperparameters"]
    assert agreed["sample_rate"] == 0.25
    report = await coordinator.show("private/rounds/1")
    for assignment in report["assignments"]:
        for told in ("epsilon", "delta", "noise_multiplier", "sample_rate"):
            assert assignment["metrics"][told] == agreed[told], told


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -1.0),
        ("epsilon", "1e999"),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", -1e-5),
        ("clip_norm", 0.0),
        ("batch_size", 0),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("epsilon", 1e-6),
        ("rounds", ROUNDS - 1),
    ],
)
async def test_a_budget_that_cannot_be_is_refused_by_name_and_nothing_is_created(
    coordinator: RunningCoordinator, name: str, member: str, value: Any
) -> None:
    document = private_specification(name, 40).model_dump(mode="json")
    assert document["training"]["hyperparameters"].pop(member) is not None
    document["training"]["hyperparameters"][member] = value
    response = await coordinator.http.post(
        "/v1/federations",
        content=json.dumps(document),
        headers=coordinator.admin | {"Content-Type": "application/json"},
    )
    assert response.status_code == 422, response.text
    assert member in response.text
    assert "unknown key" not in response.text
    listed = await coordinator.http.get("/v1/federations", headers=coordinator.admin)
    assert listed.json() == []
