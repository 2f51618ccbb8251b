"""Real training on digits in which two clients of seven send garbage: robust rules bear it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shared.arrays import NamedArrays
from shared.federation.aggregation_plan import AggregationPlan
from shared.federation.specification import EncodingPlan, FederationSpecification, RoundPolicy
from shared.tensors import codec
from tests.support.changes import CLIENTS, RULES, send
from tests.support.coordinator import RunningCoordinator, running_coordinator
from tests.support.random_clients import RESOURCES
from worker.data.loading import DatasetCache
from worker.data.source import DataSource
from worker.methods import build_method
from worker.methods.interface import Method, Participant
from worker.operations.specification import build_specification

pytestmark = pytest.mark.integration

_ROUNDS = 4
_HOSTILE = "bf"
_CLOSE, _LOST = 0.05, 0.3
"""Of accuracy: so near comes a robust rule to a run of honest clients alone; so far falls a mean
that takes garbage in. Chance is 0.1."""


def _specified(name: str, rule: str) -> FederationSpecification:
    return build_specification(
        name,
        method="fedavg",
        model="tests.support.extractors:one_layer_on_digits",
        image_shape=(1, 8, 8),
        num_classes=10,
        hyperparameters={"epochs": 2, "learning_rate": 0.1, "batch_size": 20},
        round_policy=RoundPolicy(
            rounds=_ROUNDS,
            minimum_updates=len(CLIENTS),
            max_relative_norm=None,
            evaluate_final=False,
        ),
        encoding=EncodingPlan(name="dense"),
        seed=1,
        aggregation=AggregationPlan.model_validate(
            {"rule": rule} if isinstance(plan := RULES.get(rule, rule), str) else plan
        ),
    )


def _participants(method: Method) -> list[Participant]:
    datasets = DatasetCache()
    return [
        Participant(
            name,
            datasets.client_data(
                DataSource(
                    dataset="digits", partition="iid", num_clients=len(CLIENTS), client_index=index
                ),
                (1, 8, 8),
                10,
            ),
            method.initial_private(index),
            index,
        )
        for index, name in enumerate(CLIENTS)
    ]


async def _final_accuracy(coordinator: RunningCoordinator, rule: str, hostile: str) -> float:
    """Of the honest clients' test images, after real rounds through the REST interface."""
    specification = _specified(f"{rule}-{hostile or 'honest'}", rule)
    method = build_method(specification.training, torch.device("cpu"), RESOURCES)
    everyone = _participants(method)
    await coordinator.started(specification, *CLIENTS)
    weights: NamedArrays = specification.parameters.initial_values()
    generator = np.random.default_rng(2022)
    for number in range(1, _ROUNDS + 1):
        for result in method.train(everyone, weights, number, lambda: False):
            deltas = {name: np.asarray(delta) for name, delta in result.deltas.items()}
            if result.participant in hostile:
                deltas = {
                    name: (10 * generator.standard_normal(delta.shape)).astype(np.float32)
                    for name, delta in deltas.items()
                }
            answer = await send(
                coordinator, specification, result.participant, deltas, result.num_examples
            )
            assert answer.status_code == 201, answer.text
        await coordinator.driver.step()
        served = await coordinator.http.get(
            f"/v1/federations/{specification.name}/weights/{number}", headers=coordinator.admin
        )
        weights, _ = codec.decode(served.content)
    honest = [one for one in everyone if one.name not in _HOSTILE]
    return float(np.mean([method.evaluate(one, weights)["accuracy"] for one in honest]))


@pytest.mark.slow
async def test_two_hostile_clients_of_seven_do_not_spoil_what_is_learned(tmp_path: Path) -> None:
    """On SQLite alone: what a rule makes of updates does not depend on where they are stored."""
    async with running_coordinator(f"sqlite:///{tmp_path / 'hyperfl.db'}", tmp_path) as coordinator:
        honest = await _final_accuracy(coordinator, "mean", hostile="")
        assert honest > 0.85
        for rule in RULES:
            found = await _final_accuracy(coordinator, rule, _HOSTILE)
            assert found > honest - _CLOSE, (rule, found, honest)
        spoilt = await _final_accuracy(coordinator, "mean", _HOSTILE)
        assert spoilt < honest - _LOST, (spoilt, honest)
