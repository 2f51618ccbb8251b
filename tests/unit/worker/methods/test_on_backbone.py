"""fedavg-adapter, local-adapter, fedavg-fixed, local-fixed: equal to plain loops on a backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy

from shared.federation.plans import KNOWN_METHODS, TrainingPlan
from tests.support.backbones import (
    IMAGE_SHAPE,
    RESNET,
    VIT,
    lpm_plan,
    random_backbone,
    random_digest,
    with_lone_values,
)
from tests.support.random_clients import NUM_CLASSES, random_client_data
from worker.errors import ModelError
from worker.methods import build_method
from worker.methods.interface import BuildsPersonalModel, Method, Participant, SiteResources
from worker.methods.local_round.random_streams import client_generator

CPU = torch.device("cpu")
BACKBONE_METHODS = ("fedavg-adapter", "local-adapter", "fedavg-fixed", "local-fixed")
WITHOUT_CACHE = SiteResources(max_feature_cache_bytes=0)


def plan_for(name: str, model: str = VIT, **hyperparameters: Any) -> TrainingPlan:
    return TrainingPlan(
        method=name,
        model=model,
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={
            "backbone_weights": "random",
            "backbone_digest": random_digest(model, IMAGE_SHAPE),
            "batch_size": 5,
            "epochs": 2,
        }
        | hyperparameters,
    )


def make_participant(method: Method, *, augment: bool = False) -> Participant:
    # Three batches of five, and one of a single image: what normalises maps of 1x1 meets it.
    data = random_client_data(1, 16, image_shape=IMAGE_SHAPE, augment=augment)
    return Participant("client", data, method.initial_private(100), 100)


def initial_weights(method: Method) -> dict[str, np.ndarray]:
    return method.parameters(seed=3).initial_values()


def never() -> bool:
    return False


class PlainModel(nn.Module):
    """The backbone in one piece with a head of its own."""

    def __init__(self, model: str, *, with_adapters: bool) -> None:
        super().__init__()
        template = random_backbone(model, with_adapters=with_adapters)
        self.extractor = with_lone_values(template.module)
        width = template.feature_width
        layers: list[nn.Module] = []
        if template.private_hidden_width is not None:
            layers = [nn.Linear(width, template.private_hidden_width), nn.LeakyReLU()]
            width = template.private_hidden_width
        self.head = nn.Sequential(*layers, nn.Linear(width, NUM_CLASSES))

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """By the names that the methods give them."""
        layers = {"head": self.head[-1]}
        if len(self.head) > 1:
            layers["head.hidden"] = self.head[0]
        heads = {
            f"{name}.{part}": tensor
            for name, layer in layers.items()
            for part, tensor in layer.named_parameters()
        }
        body = {
            f"extractor.{name}": parameter
            for name, parameter in self.extractor.named_parameters()
            if parameter.requires_grad
        }
        buffers = {
            f"buffers.{name}": buffer
            for name, buffer in self.extractor.named_buffers()
            if ".adapter." in name
        }
        return heads | body | buffers

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.extractor(images))


@pytest.mark.parametrize("model", [VIT, RESNET])
@pytest.mark.parametrize("name", BACKBONE_METHODS)
def test_a_round_equals_the_plain_loop(name: str, model: str) -> None:
    training = plan_for(name, model, epochs=1 if model == RESNET else 2)
    plan = KNOWN_METHODS[name].plan.model_validate(training.hyperparameters)
    method = build_method(training, CPU)
    weights, participant = initial_weights(method), make_participant(method)
    (result,) = method.train([participant], weights, 4, never)

    plain = PlainModel(model, with_adapters=name.endswith("-adapter"))
    start = {key: torch.tensor(array) for key, array in weights.items()} | participant.private
    tensors = plain.named_tensors()
    assert tensors.keys() == start.keys()
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(start[key])
    optimizer = torch.optim.SGD(
        [one for one in tensors.values() if one.requires_grad],
        lr=plan.learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )
    order = client_generator(participant.seed, "batches", 4)
    plain.train()
    for _ in range(plan.epochs):
        for images, labels in participant.data.train.shuffled_batches(plan.batch_size, CPU, order):
            optimizer.zero_grad()
            cross_entropy(plain(images), labels).backward()
            optimizer.step()
    after = {key: torch.tensor(weights[key] + delta) for key, delta in result.deltas.items()}
    after |= result.private
    for key, expected in tensors.items():
        torch.testing.assert_close(
            after[key], expected.detach(), rtol=1e-3, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}"
        )
    plain.eval()
    images, labels = participant.data.test.batch(torch.arange(7), CPU)
    with torch.no_grad():
        loss = float(cross_entropy(plain(images), labels))
    assert result.metrics["loss_after"] == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("fedavg-adapter", {"extractor", "head"}),
        ("local-adapter", set()),
        ("fedavg-fixed", {"head"}),
        ("local-fixed", set()),
    ],
)
def test_what_is_sent_is_what_is_shared_and_all_of_it_is_trained(
    name: str, shared: set[str]
) -> None:
    method = build_method(plan_for(name, RESNET, epochs=1), CPU)
    participant, weights = make_participant(method), initial_weights(method)
    (result,) = method.train([participant], weights, 1, never)
    assert {key.partition(".")[0] for key in result.deltas} == shared
    if "head" in shared:
        assert result.deltas["head.hidden.weight"].shape == (128, 512)
    for key, delta in result.deltas.items():
        assert np.any(delta), f"{key} was not trained"
    private = {"extractor", "head"} - shared
    private = private if name.endswith("-adapter") else private - {"extractor"}
    private |= {"buffers"} if name.endswith("-adapter") else set()
    assert {key.partition(".")[0] for key in result.private} == private
    assert all(".adapter." in key for key in result.private if not key.startswith("head."))
    for key, tensor in result.private.items():
        assert not torch.equal(tensor, participant.private[key]), f"{key} was not trained"


def test_nothing_at_all_is_private_to_a_shared_head() -> None:
    assert build_method(plan_for("fedavg-fixed"), CPU).initial_private(1) == {}


@pytest.mark.parametrize("name", [*BACKBONE_METHODS, "hyperfl-lpm"])
@pytest.mark.parametrize("augment", [False, True])
def test_a_round_is_the_same_with_and_without_the_cache(name: str, *, augment: bool) -> None:
    plan = lpm_plan(VIT, epochs=1) if name == "hyperfl-lpm" else plan_for(name, learning_rate=0.01)
    results = []
    for resources in (SiteResources(), WITHOUT_CACHE):
        method = build_method(plan, CPU, resources)
        participant = make_participant(method, augment=augment)
        results.extend(method.train([participant], initial_weights(method), 1, never))
    kept, computed = results
    assert kept.deltas.keys() == computed.deltas.keys()
    torch.testing.assert_close(kept.private, computed.private, rtol=1e-3, atol=1e-5)
    for key, delta in computed.deltas.items():
        if isinstance(delta, np.ndarray):
            np.testing.assert_allclose(kept.deltas[key], delta, rtol=1e-3, atol=1e-5)
    for key in ("loss_before", "loss_after", "accuracy_after"):
        assert kept.metrics[key] == pytest.approx(computed.metrics[key], rel=1e-4)


def test_a_fixed_backbone_is_asked_once_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build_method(plan_for("fedavg-fixed"), CPU)
    participant, weights = make_participant(method), initial_weights(method)
    seen = []
    network = method._extractor._module.network
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for round_number in (1, 2):
        list(method.train([participant], weights, round_number, never))
    method.evaluate(participant, weights)
    assert sum(seen) == 16 + 7


@pytest.mark.parametrize("model", [VIT, RESNET])
@pytest.mark.parametrize("name", ["fedavg-adapter", "local-fixed"])
def test_a_personal_model_gives_the_logits_that_were_evaluated(name: str, model: str) -> None:
    method = build_method(plan_for(name, model, epochs=1), CPU)
    participant, weights = make_participant(method), initial_weights(method)
    (result,) = method.train([participant], weights, 1, never)
    after = {key: weights[key] + delta for key, delta in result.deltas.items()}
    participant.private = result.private
    assert isinstance(method, BuildsPersonalModel)
    personal = method.personal_model(participant, after)
    images, labels = participant.data.test.batch(torch.arange(7), CPU)
    loss = float(cross_entropy(personal.head(personal.module(images)), labels))
    assert loss == pytest.approx(result.metrics["loss_after"], rel=1e-4)


@pytest.mark.parametrize("name", BACKBONE_METHODS)
def test_learning_rate_and_batch_size_are_those_of_hyperfl_lpm(name: str) -> None:
    baseline, hyperfl = plan_for(name).hyperparameters, lpm_plan(VIT).hyperparameters
    for setting in ("learning_rate", "batch_size"):
        assert baseline[setting] == hyperfl[setting]


@pytest.mark.parametrize("name", BACKBONE_METHODS)
def test_a_backbone_that_cannot_be_used_is_refused(name: str) -> None:
    plan = plan_for(name)
    for model, message in [
        ("cnn-mnist", "is not a pretrained backbone: use vit:NAME"),
        ("vit:test_vitt", "unknown model .*; the closest are vit:test_vit"),
    ]:
        with pytest.raises(ModelError, match=message):
            build_method(plan.model_copy(update={"model": model}), CPU)
    with pytest.raises(ModelError, match=f"but the federation's have sha256:{'0' * 64}"):
        build_method(plan_for(name, backbone_digest=f"sha256:{'0' * 64}"), CPU)
    with pytest.raises(ValidationError, match="backbone_digest"):
        plan_for(name, backbone_digest="unknown")
