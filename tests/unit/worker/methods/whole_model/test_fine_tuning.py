"""A client's own model of finished weights, for the methods that train a model as it is."""

from __future__ import annotations

import numpy as np
import pytest
import structlog
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from shared.federation.hyperparameters import ModelPlan, PPSGDPlan
from shared.federation.plans import KNOWN_METHODS, TrainingPlan
from tests.support import extractors
from tests.support.plain_models import PlainModel, load
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.export.model import ExportedModel
from worker.methods import build_method
from worker.methods.interface import (
    BuildsPersonalModel,
    Method,
    Participant,
    Personalizes,
    TrainingDivergedError,
    TrainingInterrupted,
)
from worker.methods.local_round.random_streams import client_generator

CPU = torch.device("cpu")
PRIVATE_METHODS = ("dp-fedavg", "centaur", "ppsgd")
FINE_TUNED, OF_HEADS = ("fedavg", "fedprox", "dp-fedavg"), ("fedper", "centaur", "ppsgd")
METHODS = (*FINE_TUNED, *OF_HEADS)


def plan_for(name: str, model: str | None = None) -> TrainingPlan:
    private = name in PRIVATE_METHODS
    model = model or ("tiny_without_normalisation" if private else "tiny")
    return TrainingPlan(
        method=name,
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"batch_size": 5, "epochs": 2} | ({"rounds": 3} if private else {}),
    )


def participant_of(method: Method) -> Participant:
    return Participant("site-a", random_client_data(0, 13), method.initial_private(7), 7)


def with_private(participant: Participant, private: dict[str, torch.Tensor]) -> Participant:
    return Participant(participant.name, participant.data, private, participant.seed)


def personalizing(name: str) -> tuple[Personalizes, Method, Participant, dict[str, np.ndarray]]:
    method = build_method(plan_for(name), CPU, RESOURCES)
    assert isinstance(method, Personalizes)
    values = dict(method.parameters(seed=3).initial_values())
    return method, method, participant_of(method), values


def never() -> bool:
    return False


def plain_personalization(
    name: str, model: PlainModel, participant: Participant, plan: ModelPlan, epochs: int
) -> None:
    """The same with torch.optim, modules and a loop."""
    trained: nn.Module = model
    rate = plan.learning_rate
    if isinstance(plan, PPSGDPlan):
        trained, rate = model.head, plan.head_learning_rate
    elif name == "fedper":
        trained = model.head
    optimizer = torch.optim.SGD(
        trained.parameters(), lr=rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    order = client_generator(participant.seed, "batches", 0)
    model.train()
    for _ in range(epochs):
        for images, labels in participant.data.train.shuffled_batches(plan.batch_size, CPU, order):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_it_equals_the_plain_loop(name: str) -> None:
    personalizer, method, participant, values = personalizing(name)
    weights = {key: array.astype(np.float64) for key, array in values.items()}
    participant.private = {
        key: tensor.double() if tensor.is_floating_point() else tensor
        for key, tensor in participant.private.items()
    }
    found = personalizer.personalize(participant, weights, 3, never)
    training = plan_for(name)
    extractor, width = getattr(extractors, training.model.partition(":")[2])()
    model = PlainModel(extractor, width, NUM_CLASSES)
    load(model, participant, weights)
    plan = KNOWN_METHODS[name].plan.model_validate(training.hyperparameters)
    assert isinstance(plan, ModelPlan)
    plain_personalization(name, model, participant, plan, 3)
    model.eval()
    test = participant.data.test
    images, labels = test.batch(torch.arange(len(test)), CPU)
    with torch.no_grad():
        expected = float(cross_entropy(model(images), labels))
    after = method.evaluate(with_private(participant, found), weights)
    assert after["loss"] == pytest.approx(expected, rel=1e-6)  # of float32
    assert after["loss"] != method.evaluate(participant, weights)["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_kept_is_the_clients_own_or_the_change(name: str) -> None:
    personalizer, method, participant, weights = personalizing(name)
    given = {key: tensor.clone() for key, tensor in participant.private.items()}
    found = personalizer.personalize(participant, weights, 1, never)
    method.check_private(found)
    torch.testing.assert_close(participant.private, given, rtol=0, atol=0)
    changes = {key for key in found if key.startswith("change.")}
    if name in FINE_TUNED:
        assert changes == {f"change.{key}" for key in weights} | {"change.base"}
        assert all(bool(found[key].any()) for key in changes)
    else:
        assert not changes
        assert not torch.equal(found["head.weight"], given["head.weight"])
    for key, tensor in given.items():
        if key.startswith("privacy."):
            assert torch.equal(found[key], tensor), "nothing is sent, so nothing is spent"


@pytest.mark.parametrize("name", METHODS)
def test_again_it_goes_on_from_the_clients_model(name: str) -> None:
    personalizer, method, participant, weights = personalizing(name)
    participant.data = type(participant.data)(participant.data.train, participant.data.train)
    losses = [method.evaluate(participant, weights)["loss"]]
    for _ in range(3):
        found = personalizer.personalize(participant, weights, 20, never)
        participant = with_private(participant, found)
        losses.append(method.evaluate(participant, weights)["loss"])
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_round_starts_from_the_shared_model_and_forgets_the_change(name: str) -> None:
    personalizer, method, participant, weights = personalizing(name)
    (untouched,) = method.train([participant], weights, 1, never)
    found = personalizer.personalize(participant, weights, 2, never)
    kept = participant.private | {key: one for key, one in found.items() if "change." in key}
    (after,) = method.train([with_private(participant, kept)], weights, 1, never)
    assert after.deltas.keys() == weights.keys()
    for key, delta in untouched.deltas.items():
        np.testing.assert_array_equal(after.deltas[key], delta)
    assert after.private.keys() == participant.private.keys()


@pytest.mark.parametrize("name", [*METHODS, "local"])
def test_the_model_by_itself_is_the_one_that_is_evaluated(name: str) -> None:
    method = build_method(plan_for(name), CPU, RESOURCES)
    participant = participant_of(method)
    weights = method.parameters(seed=3).initial_values()
    if name != "local":
        assert isinstance(method, Personalizes)
        participant.private = method.personalize(participant, weights, 2, never)
    assert isinstance(method, BuildsPersonalModel)
    test = participant.data.test
    model = ExportedModel(method.personal_model(participant, weights), *test.normalisation)
    mean, std = (part.view(-1, 1, 1) for part in test.normalisation)
    images, labels = test.batch(torch.arange(len(test)), CPU)
    logits = model(images * std + mean)
    evaluated = method.evaluate(participant, weights)
    assert float(cross_entropy(logits, labels)) == pytest.approx(evaluated["loss"], rel=1e-5)
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(
        evaluated["accuracy"]
    )


@pytest.mark.parametrize("name", METHODS)
def test_it_stops_between_steps_when_asked(name: str) -> None:
    personalizer, _, participant, weights = personalizing(name)
    answers = iter([False, False, True])
    with pytest.raises(TrainingInterrupted):
        personalizer.personalize(participant, weights, 2, lambda: next(answers))
    assert list(answers) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_client_that_diverges_is_named(name: str) -> None:
    personalizer, _, participant, weights = personalizing(name)
    if name in OF_HEADS:
        participant.private["head.weight"][0, 0] = torch.nan
    else:
        weights["head.weight"] = np.full_like(weights["head.weight"], np.nan)
    with pytest.raises(TrainingDivergedError, match="site-a"):
        personalizer.personalize(participant, weights, 1, never)


@pytest.mark.parametrize("name", ["centaur", "local"])
def test_a_change_of_what_is_not_shared_is_refused(name: str) -> None:
    method = build_method(plan_for(name), CPU, RESOURCES)
    participant = participant_of(method)
    participant.private["change.head.weight"] = torch.zeros(NUM_CLASSES, 5)
    with pytest.raises(ValueError, match=r"site-a: unexpected tensors: change\.head\.weight"):
        method.evaluate(participant, method.parameters(seed=3).initial_values())


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_change_counts_with_the_weights_that_it_is_one_of(name: str) -> None:
    personalizer, method, participant, weights = personalizing(name)
    found = personalizer.personalize(participant, weights, 2, never)
    tuned, of_unknown, untuned = (
        with_private(participant, {key: found[key] for key in keys})
        for keys in (
            found,
            found.keys() - {"change.base"},
            [key for key in found if not key.startswith("change.")],
        )
    )
    later = {key: one + np.float32(0.01) for key, one in weights.items()}
    with structlog.testing.capture_logs() as logs:
        assert method.evaluate(tuned, later) == method.evaluate(untuned, later)
        unknown = method.evaluate(of_unknown, weights)
    assert unknown == method.evaluate(untuned, weights) != method.evaluate(tuned, weights)
    assert [log["client"] for log in logs if "left out" in log["event"]] == ["site-a"] * 2


def test_half_a_change_is_refused() -> None:
    personalizer, method, participant, weights = personalizing("fedavg")
    found = personalizer.personalize(participant, weights, 1, never)
    del found["change.head.bias"]
    with pytest.raises(ValueError, match=r"site-a: .*change\.head\.bias"):
        method.evaluate(with_private(participant, found), weights)
