"""Fitting the private part alone: equal to plain SGD on v and the head, and nothing else moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from shared.federation.hyperparameters import HyperFLPlan
from tests.support.extractors import TinyExtractor
from tests.support.random_clients import RESOURCES, random_client_data, tiny_plan
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import (
    Participant,
    Personalizes,
    PrivateTensors,
    TrainingDivergedError,
    TrainingInterrupted,
)
from worker.methods.local_round.random_streams import client_generator

CPU = torch.device("cpu")


def never() -> bool:
    return False


@pytest.fixture
def method() -> HyperFL:
    return HyperFL(tiny_plan(), CPU, RESOURCES)


@pytest.fixture
def participant(method: HyperFL) -> Participant:
    data = random_client_data(seed=0, num_train=13)
    return Participant("site-a", data, method.initial_private(7), 7)


def plain_personalization(
    participant: Participant, weights: dict[str, np.ndarray], plan: HyperFLPlan, epochs: int
) -> PrivateTensors:
    """The same with torch.optim and autograd alone."""
    shared = {name: torch.tensor(array) for name, array in weights.items()}
    private = {name: tensor.clone() for name, tensor in participant.private.items()}
    extractor = TinyExtractor().train().to(shared["hypernetwork.output.bias"].dtype)
    buffers = {name.removeprefix("buffers."): t for name, t in private.items() if "buffers" in name}
    embedding = private["embedding"].requires_grad_()
    head = [private["head.weight"].requires_grad_(), private["head.bias"].requires_grad_()]

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(
            shared["hypernetwork.trunk.weight"] @ embedding + shared["hypernetwork.trunk.bias"]
        )
        theta = shared["hypernetwork.output.weight"] @ (plan.feature_scale * hidden)
        theta = theta + shared["hypernetwork.output.bias"]
        tensors, start = {}, 0
        for name, parameter in extractor.named_parameters():
            tensors[name] = theta[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        features = functional_call(extractor, tensors | buffers, (images.to(theta.dtype),))
        return cross_entropy(linear(features, *head), labels)

    order = client_generator(participant.seed, "batches", 0)
    descent = {"momentum": plan.momentum, "weight_decay": plan.weight_decay}
    of_embedding = torch.optim.SGD([embedding], lr=plan.learning_rate, **descent)
    for _ in range(epochs):
        of_head = torch.optim.SGD(head, lr=plan.head_learning_rate, **descent)
        for optimizer, parameters in ((of_head, head), (of_embedding, [embedding])):
            batches = participant.data.train.shuffled_batches(plan.batch_size, CPU, order)
            for images, labels in batches:
                gradients = torch.autograd.grad(loss(images, labels), parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                if parameters[0] is embedding:
                    torch.nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
                optimizer.step()
    return {name: tensor.detach() for name, tensor in private.items()}


@pytest.mark.parametrize("clip_norm", [3.0, 0.001])
def test_it_equals_plain_sgd_on_the_private_part(clip_norm: float) -> None:
    training_plan = tiny_plan(clip_norm=clip_norm)
    method = HyperFL(training_plan, CPU, RESOURCES)
    private = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in method.initial_private(7).items()
    }
    participant = Participant("site-a", random_client_data(0, num_train=13), private, 7)
    values = method.parameters(seed=3).initial_values()
    weights = {name: array.astype(np.float64) for name, array in values.items()}
    found = method.personalize(participant, weights, 3, never)
    plan = HyperFLPlan.model_validate(training_plan.hyperparameters)
    expected = plain_personalization(participant, weights, plan, 3)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9, msg=name)


def test_every_private_tensor_moves_and_nothing_given_is_changed(
    method: HyperFL, participant: Participant
) -> None:
    weights = method.parameters(seed=3).initial_values()
    given = {name: tensor.clone() for name, tensor in participant.private.items()}
    shared = {name: array.copy() for name, array in weights.items()}
    found = method.personalize(participant, weights, 1, never)
    method.check_private(found)
    for name, tensor in given.items():
        assert torch.equal(participant.private[name], tensor), f"{name} was changed in place"
        assert not torch.equal(found[name], tensor), f"{name} was not fitted"
    for name, array in shared.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def test_a_clients_model_gets_better(method: HyperFL, participant: Participant) -> None:
    weights = method.parameters(seed=3).initial_values()
    participant.data = type(participant.data)(participant.data.train, participant.data.train)
    before = method.evaluate(participant, weights)
    fitted = method.personalize(participant, weights, 40, never)
    after = method.evaluate(
        Participant("site-a", participant.data, fitted, participant.seed), weights
    )
    assert after["loss"] < before["loss"]


def test_the_method_says_that_it_can(method: HyperFL) -> None:
    assert isinstance(method, Personalizes)


@pytest.mark.parametrize("calls_before_stop", [0, 2, 5])
def test_it_stops_between_steps_when_asked(
    method: HyperFL, participant: Participant, calls_before_stop: int
) -> None:
    answers = iter([False] * calls_before_stop + [True])
    weights = method.parameters(seed=3).initial_values()
    with pytest.raises(TrainingInterrupted):
        method.personalize(participant, weights, 2, lambda: next(answers))
    assert list(answers) == []


def test_a_client_that_diverges_is_named(method: HyperFL, participant: Participant) -> None:
    participant.private["head.weight"][0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match="site-a"):
        method.personalize(participant, method.parameters(seed=3).initial_values(), 1, never)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": torch.zeros(7)}, r"client site-a: .*embedding has shape \(7,\)"),
        ({"other": torch.zeros(7)}, "client site-a: unexpected tensors: other"),
    ],
)
def test_wrong_private_tensors_are_refused(
    method: HyperFL, participant: Participant, change: Any, message: str
) -> None:
    participant.private |= change
    with pytest.raises(ValueError, match=message):
        method.personalize(participant, method.parameters(seed=3).initial_values(), 1, never)
