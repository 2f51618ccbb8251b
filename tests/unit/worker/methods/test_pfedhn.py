"""pfedhn: a hypernetwork that follows what local training makes of the models it generates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import PFedHNPlan
from shared.federation.plans import TrainingPlan
from shared.federation.sharing import HYPERNETWORK
from shared.tensors.low_rank import FactoredDelta
from tests.support import extractors
from tests.support.plain_models import CPU, PlainModel, train_whole
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.methods import build_method
from worker.methods.interface import Participant, PrivateTensors, TrainingDivergedError
from worker.methods.local_round.random_streams import client_generator
from worker.methods.pfedhn import PFedHN

SETTINGS: dict[str, Any] = {"batch_size": 5, "epochs": 2, "hypernetwork_learning_rate": 0.7}


def _pfedhn(model: str = "tiny", **hyperparameters: Any) -> PFedHN:
    plan = TrainingPlan(
        method="pfedhn",
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters=SETTINGS | hyperparameters,
    )
    method = build_method(plan, CPU, RESOURCES)
    assert isinstance(method, PFedHN)
    return method


def _participant(private: PrivateTensors) -> Participant:
    in_float64 = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in private.items()
    }
    return Participant("site-a", random_client_data(0, 13), in_float64, 7)


def _weights(method: PFedHN) -> dict[str, np.ndarray]:
    values = method.parameters(seed=3).initial_values()
    return {name: array.astype(np.float64) for name, array in values.items()}


class PlainHypernetwork:
    """A dense hypernetwork and an embedding, with torch.optim.SGD and autograd through all."""

    def __init__(self, weights: dict[str, np.ndarray], embedding: torch.Tensor) -> None:
        self.phi = [torch.tensor(weights[name], requires_grad=True) for name in HYPERNETWORK]
        self.embedding = embedding.clone().requires_grad_()

    def generate(self, scale: float) -> torch.Tensor:
        trunk_weight, trunk_bias, weight, bias = self.phi
        return weight @ (scale * (trunk_weight @ self.embedding + trunk_bias).relu()) + bias

    def follow(self, change: torch.Tensor, plan: PFedHNPlan) -> None:
        trained = [*self.phi, self.embedding]
        optimizer = torch.optim.SGD(trained, lr=plan.hypernetwork_learning_rate)
        self.generate(plan.feature_scale).backward(-change)
        torch.nn.utils.clip_grad_norm_(trained, plan.clip_norm)
        optimizer.step()


def _loaded(theta: torch.Tensor, private: PrivateTensors) -> PlainModel:
    model = PlainModel(*extractors.tiny(), NUM_CLASSES)
    torch.nn.utils.vector_to_parameters(theta.detach().clone(), model.parameters())
    buffers = {name: one for name, one in private.items() if name.startswith("buffers.")}
    named = {name.replace("buffers.", "extractor.", 1): one for name, one in buffers.items()}
    model.load_state_dict(named, strict=False)
    return model


@pytest.mark.parametrize("clip_norm", [50.0, 0.01])
def test_two_rounds_equal_a_plain_loop(clip_norm: float) -> None:
    method = _pfedhn(clip_norm=clip_norm)
    plan = PFedHNPlan(**SETTINGS, clip_norm=clip_norm)
    weights = _weights(method)
    participant = _participant(method.initial_private(7))
    for round_number in (1, 2):
        plain = PlainHypernetwork(weights, participant.private["embedding"])
        theta = plain.generate(plan.feature_scale)
        model = _loaded(theta, participant.private)
        order = client_generator(participant.seed, "batches", round_number)
        train_loss = train_whole(model, participant, plan, order)
        trained = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        plain.follow(trained - theta.detach(), plan)

        (result,) = method.train([participant], weights, round_number, lambda: False)
        for name, expected in zip(HYPERNETWORK, plain.phi, strict=True):
            delta = result.deltas[name]
            change = delta.dense(weights[name]) if isinstance(delta, FactoredDelta) else delta
            np.testing.assert_allclose(
                weights[name] + change, expected.detach(), rtol=1e-9, atol=1e-9, err_msg=name
            )
        torch.testing.assert_close(
            result.private["embedding"], plain.embedding.detach(), rtol=1e-9, atol=1e-9
        )
        assert result.metrics["train_loss"] == pytest.approx(train_loss, rel=1e-9)
        model.eval()
        images, labels = participant.data.test.batch(torch.arange(len(participant.data.test)), CPU)
        with torch.no_grad():
            loss = float(cross_entropy(model(images), labels))
        assert result.metrics["loss_after"] == pytest.approx(loss, rel=1e-6)
        weights = {
            name: one.detach().numpy() for name, one in zip(HYPERNETWORK, plain.phi, strict=True)
        }
        participant.private = result.private
        # What the next round starts from is generated, not what was trained.
        generated = _loaded(plain.generate(plan.feature_scale), result.private).eval()
        with torch.no_grad():
            loss = float(cross_entropy(generated(images), labels))
        assert method.evaluate(participant, weights)["loss"] == pytest.approx(loss, rel=1e-6)


def test_an_update_has_one_column_and_one_row() -> None:
    method = _pfedhn()
    (result,) = method.train(
        [_participant(method.initial_private(7))], _weights(method), 1, lambda: False
    )
    output = result.deltas["hypernetwork.output.weight"]
    assert isinstance(output, FactoredDelta)
    assert (output.rank, output.scale) == (1, 0.0)


def test_a_late_client_fits_its_embedding_alone() -> None:
    method = _pfedhn("tiny_without_normalisation", learning_rate=0.5)
    weights = _weights(method)
    participant = _participant(method.initial_private(7))
    participant.data = replace(participant.data, test=participant.data.train)
    private = method.personalize(participant, weights, 20, lambda: False)
    method.check_private(private)
    before = method.evaluate(participant, weights)["loss"]
    participant.private = private
    assert method.evaluate(participant, weights)["loss"] < before - 0.005


def test_the_exported_model_is_the_one_that_is_evaluated() -> None:
    method = _pfedhn()
    weights = _weights(method)
    participant = _participant(method.initial_private(7))
    model = method.personal_model(participant, weights)
    images, _ = participant.data.test.batch(torch.arange(len(participant.data.test)), CPU)
    with torch.no_grad():
        logits = model.head(model.module(images))
    torch.testing.assert_close(
        logits, method.test_logits(participant, weights), rtol=1e-5, atol=1e-6
    )


def test_a_client_that_diverges_has_nothing_to_keep() -> None:
    method = _pfedhn()
    weights = _weights(method)
    weights["hypernetwork.output.bias"][0] = np.nan
    with pytest.raises(TrainingDivergedError):
        method.personalize(_participant(method.initial_private(7)), weights, 1, lambda: False)
