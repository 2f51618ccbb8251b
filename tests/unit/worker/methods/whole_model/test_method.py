"""All methods on a whole model but ditto: equal to plain loops, and strict about what leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shared.federation.plans import KNOWN_METHODS, TrainingPlan
from shared.privacy_accountant import PrivacyBudget, least_noise_multiplier
from tests.support import extractors
from tests.support.plain_models import PlainModel, load, train_privately, train_whole
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.data.client_data import Batch
from worker.errors import MethodError
from worker.methods import build_method
from worker.methods.fedavg import FedAvg
from worker.methods.interface import (
    Method,
    Participant,
    TrainingFailedError,
    TrainingInterrupted,
)
from worker.methods.local_round.random_streams import client_generator
from worker.methods.whole_model.client import ModelClient
from worker.models.registry import ModelError

CPU = torch.device("cpu")
PRIVATE_METHODS = ("dp-fedavg", "centaur", "ppsgd")
METHODS = ("local", "fedavg", "fedprox", "fedper", "fedbn", *PRIVATE_METHODS)
STRONG_PULL = {"proximal_weight": 0.7}


def plan_for(name: str, model: str | None = None, **hyperparameters: Any) -> TrainingPlan:
    private = name in PRIVATE_METHODS
    model = model or ("tiny_without_normalisation" if private else "tiny")
    given = {"batch_size": 5, "epochs": 2} | ({"rounds": 3} if private else {}) | hyperparameters
    return TrainingPlan(
        method=name,
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters=given,
    )


def make_participant(method: Method, index: int = 0, num_train: int = 13) -> Participant:
    data = random_client_data(seed=index, num_train=num_train)
    return Participant(f"client-{index}", data, method.initial_private(100 + index), 100 + index)


def in_float64(participant: Participant) -> Participant:
    private = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in participant.private.items()
    }
    return Participant(participant.name, participant.data, private, participant.seed)


def never() -> bool:
    return False


AGREED = {"sample_rate": 0.4, "noise_multiplier": 3.0}


@pytest.mark.parametrize(
    ("name", "num_train", "agreed"),
    [(name, num_train, {}) for name in METHODS for num_train in (13, 5)]
    + [(name, num_train, AGREED) for name in PRIVATE_METHODS for num_train in (13, 3)],
)
def test_a_round_equals_the_plain_loop(name: str, num_train: int, agreed: dict[str, float]) -> None:
    private = {"clip_norm": 0.3} | agreed if name in PRIVATE_METHODS else {}
    training = plan_for(name, **private, **(STRONG_PULL if name == "fedprox" else {}))
    plan = KNOWN_METHODS[name].plan.model_validate(training.hyperparameters)
    method = build_method(training, CPU, RESOURCES)
    values = method.parameters(seed=3).initial_values()
    weights = {key: array.astype(np.float64) for key, array in values.items()}
    participant = in_float64(make_participant(method, num_train=num_train))
    (result,) = method.train([participant], weights, 4, never)

    extractor, width = getattr(extractors, training.model.partition(":")[2])()
    model = PlainModel(extractor, width, NUM_CLASSES)
    load(model, participant, weights)
    if name in PRIVATE_METHODS:
        sigma = result.metrics["noise_multiplier"]
        train_privately(model, participant, plan, 4, sigma)
    else:
        order = client_generator(participant.seed, "batches", 4)
        start = {key: one.detach().clone() for key, one in model.named_parameters()}
        pull = getattr(plan, "proximal_weight", 0.0)
        train_loss = train_whole(model, participant, plan, order, start, pull)
        assert result.metrics["train_loss"] == pytest.approx(train_loss, rel=1e-9)
    expected = model.state_dict()
    after = {key: torch.tensor(weights[key] + result.deltas[key]) for key in weights}
    after |= {
        key.replace("buffers.", "extractor.", 1): tensor
        for key, tensor in result.private.items()
        if not key.startswith("privacy.")
    }
    assert after.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(after[key], tensor, rtol=1e-9, atol=1e-9, msg=key)
    model.eval()
    images, labels = participant.data.test.batch(torch.arange(len(participant.data.test)), CPU)
    with torch.no_grad():
        correct = (model(images).argmax(dim=1) == labels).double().mean()
    assert result.metrics["accuracy_after"] == pytest.approx(float(correct))


@pytest.mark.parametrize(
    ("name", "shared_prefixes"),
    [
        ("local", set()),
        ("fedavg", {"extractor", "head"}),
        ("fedprox", {"extractor", "head"}),
        ("fedper", {"extractor"}),
        ("fedbn", {"extractor", "head"}),
        ("dp-fedavg", {"extractor", "head"}),
        ("centaur", {"extractor"}),
        ("ppsgd", {"extractor"}),
    ],
)
def test_what_is_sent_is_what_is_shared_and_nothing_private(
    name: str, shared_prefixes: set[str]
) -> None:
    method = build_method(plan_for(name), CPU, RESOURCES)
    parameters = method.parameters(seed=3)
    participant = make_participant(method)
    (result,) = method.train([participant], parameters.initial_values(), 1, never)
    assert result.deltas.keys() == parameters.by_name.keys()
    assert {sent.partition(".")[0] for sent in result.deltas} == shared_prefixes
    assert not result.deltas.keys() & result.private.keys()
    assert result.private.keys() == participant.private.keys()
    method.check_private(result.private)
    for sent, delta in result.deltas.items():
        assert isinstance(delta, np.ndarray)
        assert (delta.shape, delta.dtype) == (parameters.by_name[sent].shape, np.float32)
        assert np.any(delta), f"{sent} was not trained"


class Leaky(FedAvg):
    def initial_private(self, client_seed: int) -> dict[str, torch.Tensor]:
        return {"head.weight": torch.zeros(1)}


def test_a_method_that_would_share_what_is_private_is_refused() -> None:
    plan = plan_for("fedavg").model_copy(update={"method": f"{__name__}:Leaky"})
    with pytest.raises(MethodError, match=r"share what it calls private: head\.weight"):
        build_method(plan, CPU, RESOURCES)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fedbn"])
def test_a_scalar_parameter_is_trained_where_it_is_private_and_refused_by_name_where_shared(
    name: str,
) -> None:
    plan = plan_for(name, "with_a_scalar")
    if name != "local":
        with pytest.raises(ModelError, match=r"scale is a scalar, .* give it the shape \(1,\)"):
            build_method(plan, CPU, RESOURCES)
        return
    method = build_method(plan, CPU, RESOURCES)
    participant = make_participant(method)
    (result,) = method.train([participant], {}, 1, never)
    scale = "extractor.scale"
    assert result.private[scale].shape == ()
    assert result.private[scale] != participant.private[scale]


@pytest.mark.parametrize("name", METHODS)
def test_a_participant_and_the_weights_are_never_changed(name: str) -> None:
    method = build_method(plan_for(name), CPU, RESOURCES)
    participant = make_participant(method)
    before = {key: tensor.clone() for key, tensor in participant.private.items()}
    weights = method.parameters(seed=3).initial_values()
    for array in weights.values():
        array.flags.writeable = False
    state = torch.get_rng_state()
    list(method.train([participant], weights, 1, never))
    torch.testing.assert_close(participant.private, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", METHODS)
def test_training_stops_between_batches_when_asked(name: str) -> None:
    method = build_method(plan_for(name), CPU, RESOURCES)
    answers = iter([False, False, True])
    weights = method.parameters(seed=3).initial_values()
    with pytest.raises(TrainingInterrupted):
        list(method.train([make_participant(method)], weights, 1, lambda: next(answers)))
    assert list(answers) == []


def test_a_diverged_client_is_named_after_the_others_are_done() -> None:
    method = build_method(plan_for("centaur"), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, index) for index in range(3)]
    group[1].private["head.weight"][0, 0] = torch.nan
    finished = []
    with pytest.raises(TrainingFailedError, match="NaN") as caught:
        finished.extend(one.participant for one in method.train(group, weights, 1, never))
    assert finished == ["client-0", "client-2"]
    assert list(caught.value.reasons) == ["client-1"]


def test_clients_of_local_training_start_apart_and_dropout_is_their_own() -> None:
    method = build_method(plan_for("local", "tiny_with_dropout"), CPU, RESOURCES)
    first, second = (make_participant(method, index) for index in range(2))
    assert not torch.equal(first.private["head.weight"], second.private["head.weight"])
    together = list(method.train([first, second], {}, 1, never))[1]
    torch.manual_seed(5)
    (alone,) = method.train([second], {}, 1, never)
    torch.testing.assert_close(alone.private, together.private, rtol=0, atol=0)


def test_sigma_is_the_accountants_for_the_clients_own_number_of_examples() -> None:
    method = build_method(plan_for("dp-fedavg"), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, index, n) for index, n in enumerate([13, 40])]
    for participant, result in zip(group, method.train(group, weights, 1, never), strict=True):
        count = len(participant.data.train)
        steps = 3 * 2 * -(-count // 5)
        expected = least_noise_multiplier(PrivacyBudget(4.0, 1e-5, 5 / count, steps))
        assert result.metrics["noise_multiplier"] == expected
        assert result.metrics["sample_rate"] == 5 / count
        assert (result.metrics["epsilon"], result.metrics["delta"]) == (4.0, 1e-5)
        assert "train_loss" not in result.metrics


def test_agreed_noise_is_every_clients() -> None:
    method = build_method(plan_for("centaur", **AGREED), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, index, n) for index, n in enumerate([2, 13, 40])]
    for result in method.train(group, weights, 1, never):
        found = {key: result.metrics[key] for key in AGREED}
        assert found == AGREED
        assert result.metrics["private_steps"] == 2 * round(1 / 0.4)


def refusal(name: str, num_train: int, **hyperparameters: Any) -> str:
    method = build_method(plan_for(name, **hyperparameters), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, 0, 40), make_participant(method, 1, num_train)]
    with pytest.raises(TrainingFailedError) as caught:
        list(method.train(group, weights, 1, never))
    return caught.value.reasons["client-1"]


@pytest.mark.parametrize("name", PRIVATE_METHODS)
def test_a_client_with_fewer_examples_than_a_batch_is_left_out_by_name(name: str) -> None:
    assert refusal(name, 4) == (
        "batch_size 5 with 4 training examples is a sample rate of 1.25, which is more than 1"
    )


def test_agreed_noise_that_is_too_little_is_refused_with_both_figures() -> None:
    needed = least_noise_multiplier(PrivacyBudget(4.0, 1e-5, 0.4, 12))
    assert refusal("dp-fedavg", 13, sample_rate=0.4, noise_multiplier=0.5) == (
        "epsilon 4 at delta 1e-05 in 12 steps with a sample rate of 0.4 needs a noise multiplier "
        f"of {needed:.4g}, but 0.5 is agreed"
    )


def test_a_budget_that_no_noise_keeps_to_is_the_clients_reason() -> None:
    assert refusal("ppsgd", 13, epsilon=0.104, rounds=1_000_000, epochs=1000) == (
        "no amount of noise keeps to epsilon 0.104 at delta 1e-05 in 3000000000 steps with a "
        "sample rate of 0.3846"
    )


def test_a_spent_budget_ends_training_and_nothing_is_sent() -> None:
    method = build_method(plan_for("dp-fedavg", rounds=1), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method)
    (result,) = method.train([participant], weights, 1, never)
    participant.private = result.private
    with pytest.raises(TrainingFailedError, match="6 of 6 steps are taken"):
        list(method.train([participant], weights, 2, never))


def test_a_budget_is_for_the_examples_it_was_made_for() -> None:
    method = build_method(plan_for("ppsgd"), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method)
    (result,) = method.train([participant], weights, 1, never)
    more = Participant("client-0", random_client_data(0, 14), result.private, participant.seed)
    with pytest.raises(TrainingFailedError, match="made for 13 training examples, not for 14"):
        list(method.train([more], weights, 2, never))


def test_noise_is_never_drawn_twice_even_if_a_round_is() -> None:
    method = build_method(plan_for("dp-fedavg"), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method)
    (first,) = method.train([participant], weights, 1, never)
    (same,) = method.train([participant], weights, 1, never)
    participant.private = first.private
    (later,) = method.train([participant], weights, 1, never)
    for name, delta in first.deltas.items():
        assert np.array_equal(delta, same.deltas[name])
        assert not np.allclose(delta, later.deltas[name])


@pytest.mark.parametrize("name", PRIVATE_METHODS)
def test_samples_are_never_drawn_twice_even_if_a_round_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accountant's ε is for samples that are independent of all others."""
    drawn = list[list[float]]()
    batch = ModelClient.sampled_batch

    def recording(client: ModelClient, *arguments: Any) -> Batch | None:
        found = batch(client, *arguments)
        drawn.append([] if found is None else found[0].flatten(1).sum(1).tolist())
        return found

    monkeypatch.setattr(ModelClient, "sampled_batch", recording)
    method = build_method(plan_for(name), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method)

    def samples() -> list[list[float]]:
        drawn.clear()
        (result,) = method.train([participant], weights, 1, never)
        participant.private = result.private
        return list(drawn)

    untrained = participant.private
    first = samples()
    assert samples() != first
    participant.private = untrained
    assert samples() == first


@pytest.mark.parametrize(("later_round", "later_weight"), [(2, 0.0), (1, 1e-30)])
def test_a_private_state_put_back_to_an_earlier_day_does_not_repeat_the_noise(
    later_round: int, later_weight: float
) -> None:
    # No example passes the clip, so that an update is noise alone.
    method = build_method(plan_for("dp-fedavg", clip_norm=1e-30, weight_decay=0.0), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    weights = {name: np.zeros_like(array) for name, array in weights.items()}
    participant = make_participant(method)
    (sent,) = method.train([participant], weights, 1, never)
    weights = {name: np.full_like(array, later_weight) for name, array in weights.items()}
    (later,) = method.train([participant], weights, later_round, never)
    one, two = (np.concatenate([d.ravel() for d in r.deltas.values()]) for r in (sent, later))
    assert np.any(one)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.4


@pytest.mark.parametrize("name", PRIVATE_METHODS)
def test_batch_normalisation_is_refused_where_examples_must_be_told_apart(name: str) -> None:
    with pytest.raises(ModelError, match=r"normalisation \(BatchNorm2d\) mixes the examples"):
        build_method(plan_for(name, "tiny"), CPU, RESOURCES)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epsilon", 0.0), ("delta", 0.0), ("delta", 1.0), ("clip_norm", 0.0), ("rounds", 0)],
)
def test_a_budget_that_cannot_be_is_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(ValidationError, match=setting):
        plan_for("dp-fedavg", **{setting: value})
