"""ditto: a shared model trained as fedavg does, and a client's own beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import DittoPlan
from shared.federation.plans import TrainingPlan
from tests.support import extractors
from tests.support.plain_models import CPU, PlainModel, load, train_whole
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.methods import build_method
from worker.methods.ditto import Ditto
from worker.methods.interface import Participant, PrivateTensors, TrainingDivergedError
from worker.methods.local_round.random_streams import client_generator


def _plan(method: str = "ditto", model: str = "tiny", **hyperparameters: Any) -> TrainingPlan:
    return TrainingPlan(
        method=method,
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"batch_size": 5, "epochs": 2} | hyperparameters,
    )


def _ditto(**hyperparameters: Any) -> Ditto:
    method = build_method(_plan(**hyperparameters), CPU, RESOURCES)
    assert isinstance(method, Ditto)
    return method


def _participant(private: PrivateTensors) -> Participant:
    in_float64 = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in private.items()
    }
    return Participant("site-a", random_client_data(0, 13), in_float64, 7)


def _weights(method: Ditto) -> dict[str, np.ndarray]:
    values = method.parameters(seed=3).initial_values()
    return {name: array.astype(np.float64) for name, array in values.items()}


def _plain_own_model(
    private: PrivateTensors, start: dict[str, torch.Tensor], weights: dict[str, np.ndarray]
) -> PlainModel:
    """A module with some parameters and a client's buffers."""
    model = PlainModel(*extractors.tiny(), NUM_CLASSES)
    buffers = {name: one for name, one in private.items() if name.startswith("buffers.")}
    load(model, _participant(buffers), weights)
    model.load_state_dict(start, strict=False)
    return model


def test_two_rounds_equal_the_plain_loops() -> None:
    method = _ditto(proximal_weight=0.7, personal_epochs=3)
    plan = DittoPlan(batch_size=5, epochs=2, proximal_weight=0.7, personal_epochs=3)
    weights = _weights(method)
    participant = _participant(method.initial_private(7))
    own = {name: torch.tensor(array) for name, array in weights.items()}
    for round_number in (1, 2):
        anchor = {name: torch.tensor(array) for name, array in weights.items()}
        (result,) = method.train([participant], weights, round_number, lambda: False)
        order = client_generator(participant.seed, "batches", round_number)
        shared = _plain_own_model(participant.private, anchor, weights)
        train_whole(shared, participant, plan, order)
        plain = _plain_own_model(participant.private, own, weights)
        train_whole(
            *(plain, participant, plan.model_copy(update={"epochs": 3}), order, anchor, 0.7)
        )
        own = {name: one.detach().clone() for name, one in plain.named_parameters()}
        for name, one in shared.named_parameters():
            after = torch.tensor(weights[name] + result.deltas[name])
            torch.testing.assert_close(after, one.detach(), rtol=1e-9, atol=1e-9, msg=name)
        for name, one in own.items():
            torch.testing.assert_close(
                result.private[f"personal.{name}"], one, rtol=1e-9, atol=1e-9, msg=name
            )
        state = plain.state_dict()
        for name, one in result.private.items():
            if name.startswith("buffers."):
                expected = state[name.replace("buffers.", "extractor.", 1)]
                torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-9, msg=name)
        weights = {name: one + 0.1 for name, one in weights.items()}
        participant.private = result.private
        found = method.evaluate(participant, weights)
        test = participant.data.test
        images, labels = test.batch(torch.arange(len(test)), CPU)
        plain.eval()
        with torch.no_grad():
            loss = float(cross_entropy(plain(images), labels))
        assert found["loss"] == pytest.approx(loss, rel=1e-6)  # of float32
        assert result.metrics["loss_after"] == pytest.approx(loss, rel=1e-6)


def test_what_is_sent_is_what_fedavg_sends() -> None:
    method, fedavg = _ditto(), build_method(_plan("fedavg"), CPU, RESOURCES)
    weights = _weights(method)
    assert method.parameters(3) == fedavg.parameters(3)
    (sent,) = method.train([_participant(method.initial_private(7))], weights, 1, lambda: False)
    (same,) = fedavg.train([_participant(fedavg.initial_private(7))], weights, 1, lambda: False)
    for name, delta in same.deltas.items():
        np.testing.assert_array_equal(sent.deltas[name], delta, name)
    assert not any(name.startswith("personal.") for name in sent.deltas)


def test_before_its_first_round_a_client_has_the_shared_model() -> None:
    method, fedavg = _ditto(), build_method(_plan("fedavg"), CPU, RESOURCES)
    weights = _weights(method)
    found = method.evaluate(_participant(method.initial_private(7)), weights)
    assert found == fedavg.evaluate(_participant(fedavg.initial_private(7)), weights)


def test_a_late_client_gets_a_model_of_its_own_by_personalizing() -> None:
    method = _ditto(proximal_weight=0.0)
    local = build_method(_plan("fedavg"), CPU, RESOURCES)
    weights = _weights(method)
    participant = _participant(method.initial_private(7))
    private = method.personalize(participant, weights, 2, lambda: False)
    method.check_private(private)
    assert private.keys() == participant.private.keys()
    (trained,) = local.train([_participant(local.initial_private(7))], weights, 0, lambda: False)
    for name, delta in trained.deltas.items():
        np.testing.assert_allclose(private[f"personal.{name}"], weights[name] + delta, atol=1e-12)
    exported = method.personal_model(_participant(private), weights)
    for name, one in exported.module.named_parameters():
        torch.testing.assert_close(
            one.detach().double(), private[f"personal.extractor.{name}"], rtol=1e-6, atol=1e-7
        )


def test_an_own_model_that_diverges_is_not_kept() -> None:
    method = _ditto()
    weights = _weights(method)
    weights["head.bias"][0] = np.nan
    with pytest.raises(TrainingDivergedError):
        method.personalize(_participant(method.initial_private(7)), weights, 1, lambda: False)
