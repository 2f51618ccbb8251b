"""A multilayer perceptron of rows: HyperFL generates it exactly, and the other methods train it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.federation.plans import KNOWN_METHODS, HyperFLPlan, takes_backbone
from shared.federation.sharing import check_shared_names
from shared.tensors.low_rank import FactoredDelta
from tests.support.plain_hyperfl import plain_round
from tests.support.random_clients import RESOURCES
from tests.support.rows import WIDTH, random_row_data, row_plan
from worker.methods import build_method
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import Participant
from worker.models.mlp import MultilayerPerceptron

CPU = torch.device("cpu")
METHODS = [name for name in KNOWN_METHODS if not takes_backbone(name) and name != "fedbn"]


def test_hyperfls_round_equals_the_plain_loop() -> None:
    training = row_plan(embedding_size=6, hidden_size=4, feature_dropout=0.0, batch_size=4)
    plan = HyperFLPlan.model_validate(training.hyperparameters)
    method = HyperFL(training, CPU, RESOURCES)
    assert [tensor.name for tensor in method._layout.tensors] == [
        f"layers.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")
    ]
    values = method.parameters(seed=3).initial_values()
    weights = {name: array.astype(np.float64) for name, array in values.items()}
    private = {name: tensor.double() for name, tensor in method.initial_private(7).items()}
    participant = Participant("site-a", random_row_data(1), private, 7, number=0)
    (found,) = method.train([participant], weights, 4, lambda: False)
    expected = plain_round(
        participant, weights, MultilayerPerceptron(WIDTH, 8, 2), plan, round_number=4
    )
    for name, delta in found.deltas.items():
        change = delta
        if isinstance(delta, FactoredDelta):
            change = delta.scale * weights[name] + delta.left.T @ delta.right
        np.testing.assert_allclose(
            weights[name] + change, expected.weights[name], rtol=1e-10, atol=1e-10, err_msg=name
        )
    assert found.private.keys() == expected.private.keys() == {"embedding", *_HEAD}


_HEAD = ("head.weight", "head.bias")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_without_a_backbone_trains_it(method: str) -> None:
    more = {"rounds": 1} if "rounds" in KNOWN_METHODS[method].plan.model_fields else {}
    plan = row_plan(method, batch_size=4, **more)
    built = build_method(plan, CPU, RESOURCES)
    parameters = built.parameters(seed=1)
    check_shared_names(method, plan.model, parameters.by_name.keys())
    participant = Participant("site-a", random_row_data(1), built.initial_private(7), 7, number=0)
    (result,) = built.train([participant], parameters.initial_values(), 1, lambda: False)
    assert 0 <= result.metrics["accuracy_after"] <= 1
    assert np.isfinite(result.metrics["loss_after"])
