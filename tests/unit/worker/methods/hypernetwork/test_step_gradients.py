"""The gradients of a group's step: one computation, or one after the other, with one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from shared.federation.plans import TrainingPlan
from shared.tensors.low_rank import FactoredDelta
from tests.support.backbones import IMAGE_SHAPE as BACKBONES_SHAPE
from tests.support.backbones import RESNET, random_backbone
from tests.support.random_clients import NUM_CLASSES, RESOURCES, random_client_data, tiny_plan
from worker.data.images import ImageShape
from worker.methods.hyperfl import HyperFL
from worker.methods.hypernetwork import step_gradients
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.step_gradients import StepGradients, pays_batched
from worker.methods.interface import (
    Participant,
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingResult,
)
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import FeatureExtractor, build_feature_extractor

CPU = torch.device("cpu")
MODELS = [("cnn-mnist", (1, 28, 28)), ("cnn-cifar", (3, 32, 32)), ("mlp:8x2", (1, 3, 3))]
UNEQUAL = [13, 3, 22, 8, 13]
Forced = Callable[[bool], None]


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Forced:
    """Says for every device whether a group's gradients are one computation, where they can be."""

    def force(batched: bool) -> None:
        monkeypatch.setattr(step_gradients, "pays_batched", lambda *_: batched)

    return force


def plan_of(model: str, image_shape: ImageShape, **hyperparameters: Any) -> TrainingPlan:
    return TrainingPlan(
        method="hyperfl",
        model=model,
        image_shape=image_shape,
        num_classes=NUM_CLASSES,
        hyperparameters={"batch_size": 5, "epochs": 2, "feature_dropout": 0.5} | hyperparameters,
    )


SMALL = plan_of("mlp:8x2", (1, 3, 3))


def group_of(
    plan: TrainingPlan, counts: list[int], device: torch.device = CPU
) -> tuple[HyperFL, list[Participant]]:
    """Clients with as many training examples, in float64."""
    method = HyperFL(plan, device, RESOURCES)
    group = [
        Participant(
            f"client-{index}",
            random_client_data(index, count, image_shape=plan.image_shape or ()),
            {name: one.double() for name, one in method.initial_private(index).items()},
            index,
        )
        for index, count in enumerate(counts)
    ]
    return method, group


def weights_of(method: HyperFL) -> dict[str, np.ndarray]:
    values = method.parameters(seed=3).initial_values()
    return {name: array.astype(np.float64) for name, array in values.items()}


def train(
    method: HyperFL, group: list[Participant], should_stop: Callable[[], bool] = lambda: False
) -> dict[str, TrainingResult]:
    results = method.train(group, weights_of(method), 2, should_stop)
    return {result.participant: result for result in results}


def numbers_of(result: TrainingResult) -> dict[str, torch.Tensor]:
    """All that a round gives but the time it took."""
    metrics = {name: torch.tensor(one) for name, one in result.metrics.items()}
    del metrics["seconds_training"]
    deltas = {
        name: torch.from_numpy(
            one.left.T @ one.right if isinstance(one, FactoredDelta) else np.asarray(one)
        )
        for name, one in result.deltas.items()
    }
    return metrics | deltas | result.private


def assert_same(found: dict[str, TrainingResult], expected: dict[str, TrainingResult]) -> None:
    assert found.keys() == expected.keys()
    for name, result in expected.items():
        torch.testing.assert_close(
            numbers_of(found[name]), numbers_of(result), rtol=1e-9, atol=1e-11
        )


@pytest.mark.parametrize("training_head", [None, "public"])
@pytest.mark.parametrize(("model", "image_shape"), MODELS)
def test_a_round_is_the_same_both_ways(
    model: str, image_shape: ImageShape, training_head: str | None, forced: Forced
) -> None:
    plan = plan_of(model, image_shape, training_head=training_head)
    found = {}
    for batched in (True, False):
        forced(batched)
        found[batched] = train(*group_of(plan, UNEQUAL))
    assert_same(found[True], found[False])


def test_a_group_is_one_computation_and_few_clients_are_not(
    forced: Forced, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(True)
    method, group = group_of(SMALL, [10] * 4)
    alone = [train(method, [participant]) for participant in group]

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("a client computed a gradient by itself")

    monkeypatch.setattr(HyperFLClient, "gradient", refuse)
    together = train(method, group)
    with pytest.raises(AssertionError, match="by itself"):
        train(method, group[:3])
    for results in alone:
        assert_same({name: together[name] for name in results}, results)


def test_what_is_too_large_for_one_computation_is_several(
    forced: Forced, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(True)
    whole = train(*group_of(SMALL, UNEQUAL))
    monkeypatch.setattr(step_gradients, "_MOST_ELEMENTS", 2 * 5 * 9)
    assert_same(train(*group_of(SMALL, UNEQUAL)), whole)
    monkeypatch.setattr(step_gradients, "_MOST_ELEMENTS", 1)
    assert_same(train(*group_of(SMALL, UNEQUAL)), whole)


@pytest.mark.parametrize(("model", "image_shape"), MODELS)
def test_a_client_that_diverges_takes_nobody_along(
    model: str, image_shape: ImageShape, forced: Forced
) -> None:
    plan = plan_of(model, image_shape)
    forced(False)
    expected = train(*group_of(plan, [6] * 4))
    forced(True)
    method, group = group_of(plan, [6] * 4)
    group[1].private["head.weight"][0, 0] = torch.nan
    finished: list[TrainingResult] = []
    results = method.train(group, weights_of(method), 2, lambda: False)
    with pytest.raises(TrainingDivergedError) as caught:
        finished.extend(results)
    assert caught.value.reasons.keys() == {"client-1"}
    del expected["client-1"]
    assert_same({result.participant: result for result in finished}, expected)


def test_a_round_that_is_broken_off_between_two_steps_is_the_same_when_repeated(
    forced: Forced,
) -> None:
    forced(True)
    method, group = group_of(SMALL, UNEQUAL)
    undisturbed = train(method, group)
    # 5 batches are evaluated, 14 are the head steps'; the third step of four clients has begun.
    answers = iter([False] * 33 + [True])
    with pytest.raises(TrainingInterrupted):
        train(method, group, lambda: next(answers))
    assert list(answers) == []
    assert_same(train(method, group), undisturbed)


@pytest.mark.parametrize(
    ("model", "image_shape", "device", "expected"),
    [
        ("cnn-mnist", None, "cuda", True),
        ("cnn-mnist", None, "cpu", False),
        ("mlp:64x2", (30,), "cuda:1", True),
        ("mlp:64x2", (30,), "cpu", True),
        ("mlp:512x3", (784,), "cpu", False),
    ],
)
def test_where_one_computation_is_expected_to_be_faster(
    model: str, image_shape: ImageShape | None, device: str, *, expected: bool
) -> None:
    module = build_feature_extractor(model, image_shape).module
    assert pays_batched(module, torch.device(device)) == expected


def can_be_batched(template: FeatureExtractor) -> bool:
    layout = ParameterLayout(generated_tensors(template.module))
    return StepGradients(FunctionalExtractor(template, layout, CPU), template, CPU).batched


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("tiny_without_normalisation", True),
        ("partly_frozen_without_normalisation", True),
        ("with_layer_normalisation", True),
        ("tiny", False),
        ("tiny_with_dropout", False),
        ("with_dropout_alone", False),
        ("that_counts_what_it_sees", False),
        ("that_looks_at_values", False),
        ("with_an_unusual_operation", False),
    ],
)
def test_which_modules_can_be_computed_for_several_clients_at_once(
    model: str, forced: Forced, *, expected: bool
) -> None:
    forced(True)
    plan = tiny_plan(model)
    template = build_feature_extractor(plan.model, plan.image_shape, RESOURCES.allowed_imports)
    state = torch.get_rng_state()
    assert can_be_batched(template) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_backbone_computes_for_one_client_at_a_time(forced: Forced) -> None:
    forced(True)
    template = random_backbone(RESNET)
    assert template.image_shape == BACKBONES_SHAPE
    assert not can_be_batched(template)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("feature_dropout", [0.0, 0.5])
@pytest.mark.parametrize(("model", "image_shape"), MODELS)
def test_a_gpu_computes_the_same_both_ways_and_what_a_cpu_does(
    model: str, image_shape: ImageShape, feature_dropout: float, forced: Forced
) -> None:
    plan = plan_of(model, image_shape, feature_dropout=feature_dropout)
    method, group = group_of(plan, UNEQUAL, torch.device("cuda"))
    found = train(method, group)
    forced(False)
    assert_same(found, train(*group_of(plan, UNEQUAL, torch.device("cuda"))))
    if not feature_dropout:  # Devices draw differently.
        assert_same(found, train(*group_of(plan, UNEQUAL)))
