"""A private step: what it sends, what one example can change in it, and what is not in it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shared.federation.plans import TrainingPlan
from shared.federation.sharing import OUTPUT_BIAS
from tests.support.random_clients import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    RESOURCES,
    random_client_data,
)
from worker.errors import ModelError
from worker.methods import build_method
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork.public_head import public_head
from worker.methods.interface import Participant, TrainingResult

CLIP_NORM, ROUNDS = 0.05, 5


def private_method(model: str = "tiny_without_normalisation", **privacy: Any) -> HyperFL:
    settings = {"rounds": ROUNDS, "noise_multiplier": 1.0, "clip_norm": CLIP_NORM} | privacy
    plan = TrainingPlan(
        method="hyperfl",
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"shared_part": "output-bias", "epochs": 1, "batch_size": 4},
        privacy=settings,  # type: ignore[arg-type]
    )
    method = build_method(plan, torch.device("cpu"), RESOURCES)
    assert isinstance(method, HyperFL)
    return method


def participant(method: HyperFL, num_train: int = 9, seed: int = 5) -> Participant:
    data = random_client_data(num_train=num_train, num_test=4, seed=1)
    return Participant("a", data, method.initial_private(seed), seed)


def trained(method: HyperFL, one: Participant, number: int = 1) -> TrainingResult:
    weights = method.parameters(seed=3).initial_values()
    (result,) = method.train([one], weights, number, lambda: False)
    return result


def test_the_change_is_the_sum_of_clipped_gradients_at_the_extractor_of_no_client() -> None:
    method = private_method()
    one = participant(method)
    found = trained(method, one).deltas[OUTPUT_BIAS]
    weights = method.read(method.parameters(seed=3).initial_values())
    theta = weights.generate(torch.zeros(16), 0.25).detach()
    head = public_head(NUM_CLASSES, 5, 4.0)
    total = torch.zeros_like(theta)
    for index in range(len(one.data.train)):
        image, label = one.data.train.batch(torch.tensor([index]), torch.device("cpu"))
        leaf = theta.clone().requires_grad_()
        features = method._extractor.features(leaf, {}, image)
        (gradient,) = torch.autograd.grad(cross_entropy(features @ head.T, label), leaf)
        total += gradient * min(1.0, CLIP_NORM / float(gradient.norm()))
    expected = -4.0 * total / len(one.data.train)
    found = torch.from_numpy(np.asarray(found)).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_nothing_of_embedding_head_or_noise_is_in_what_is_sent() -> None:
    method = private_method()
    one = participant(method)
    other = copy.copy(one)
    other.private = {name: tensor + 1.0 for name, tensor in one.private.items()}
    first, second = trained(method, one), trained(method, other)
    assert np.array_equal(first.deltas[OUTPUT_BIAS], second.deltas[OUTPUT_BIAS])
    assert not torch.equal(first.private["head.weight"], second.private["head.weight"])
    assert "train_loss" not in first.metrics
    assert "feature_norm_squared" not in first.metrics


def test_one_example_changes_no_more_than_is_said() -> None:
    method = private_method(clip_norm=10.0)
    one, fewer = participant(method), participant(method)
    change = np.asarray(trained(method, one).deltas[OUTPUT_BIAS])
    images = fewer.data.train
    images._positions = images._positions[:-1]
    images._labels = images._labels[:-1]
    without = np.asarray(trained(method, fewer).deltas[OUTPUT_BIAS]) * 8 / 9
    said = trained(method, one).sensitivity
    assert said == pytest.approx(4.0 * 10.0 / 9)
    assert 0 < np.linalg.norm(change - without) <= said


def test_a_sample_is_drawn_anew_for_every_round() -> None:
    method = private_method(sample_rate=0.5)
    one = participant(method, num_train=30)
    first, again, second = (trained(method, one, number) for number in (1, 1, 2))
    assert np.array_equal(first.deltas[OUTPUT_BIAS], again.deltas[OUTPUT_BIAS])
    assert not np.allclose(first.deltas[OUTPUT_BIAS], second.deltas[OUTPUT_BIAS])


def test_the_private_part_learns_without_noise() -> None:
    method = private_method()
    one = participant(method)
    assert not one.private["embedding"].any()
    result = trained(method, one)
    assert result.private["embedding"].any()
    method.check_private(result.private)


def test_a_fit_that_diverges_is_dropped_and_the_step_is_sent_all_the_same() -> None:
    method = private_method()
    one = participant(method)
    one.private["head.weight"] = torch.full_like(one.private["head.weight"], 3e38)
    before = {name: tensor.clone() for name, tensor in one.private.items()}
    result = trained(method, one)
    assert np.isfinite(np.asarray(result.deltas[OUTPUT_BIAS])).all()
    assert all(torch.equal(result.private[name], tensor) for name, tensor in before.items())


def test_models_that_carry_what_they_saw_are_refused() -> None:
    with pytest.raises(ModelError, match="training changes buffer seen, which would carry"):
        private_method("that_counts_what_it_sees")


def test_models_that_mix_examples_are_refused() -> None:
    with pytest.raises(ModelError, match="mixes the examples of a batch"):
        private_method("tiny")


def test_a_class_without_a_feature_of_its_own_is_refused() -> None:
    head = public_head(3, 8, 4.0)
    assert torch.equal(head[:, 6:], torch.zeros(3, 2))
    torch.testing.assert_close(head.norm(dim=1), torch.full((3,), 4.0))
    torch.testing.assert_close(head.sum(dim=0), torch.zeros(8))
    with pytest.raises(ModelError, match="8 features for 9 classes"):
        public_head(9, 8, 4.0)
