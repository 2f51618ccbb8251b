"""HyperFL's local round: equal to the plain loop, alone or in a group, and strict about names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from shared.tensors.low_rank import FactoredDelta
from tests.support.extractors import TinyExtractor
from tests.support.plain_hyperfl import plain_round
from tests.support.random_clients import IMAGE_SHAPE, RESOURCES, random_client_data, tiny_plan
from worker.errors import ModelError
from worker.methods.hyperfl import HyperFL
from worker.methods.interface import (
    Participant,
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingResult,
)
from worker.models.registry import FeatureExtractor

CPU = torch.device("cpu")
Arrays = dict[str, np.ndarray]


def never() -> bool:
    return False


def make_participant(method: HyperFL, index: int, num_train: int = 13) -> Participant:
    return Participant(
        name=f"client-{index}",
        data=random_client_data(seed=index, num_train=num_train),
        private=method.initial_private(100 + index),
        seed=100 + index,
    )


def train_all(
    method: HyperFL, group: list[Participant], weights: Arrays, round_number: int = 1
) -> dict[str, TrainingResult]:
    results = method.train(group, weights, round_number, never)
    return {result.participant: result for result in results}


def dense(result: TrainingResult, weights: Arrays) -> Arrays:
    """The deltas as arrays, in the weights' own precision."""
    return {
        name: delta.scale * weights[name] + delta.left.T @ delta.right
        if isinstance(delta, FactoredDelta)
        else delta
        for name, delta in result.deltas.items()
    }


def in_float64(participant: Participant) -> Participant:
    private = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in participant.private.items()
    }
    return Participant(participant.name, participant.data, private, participant.seed)


def assert_same_round(
    found: TrainingResult, expected: TrainingResult, weights: Arrays, tolerance: float = 2e-5
) -> None:
    for name, delta in dense(expected, weights).items():
        np.testing.assert_allclose(
            dense(found, weights)[name], delta, rtol=tolerance, atol=tolerance, err_msg=name
        )
    for name, tensor in expected.private.items():
        torch.testing.assert_close(
            found.private[name], tensor, rtol=tolerance, atol=tolerance, msg=name
        )
    for name, value in expected.metrics.items():
        if name != "seconds_training":
            assert found.metrics[name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {},
        {"head_epochs": 0, "feature_scale": 0.5},
        {"head_epochs": 3, "momentum": 0.0, "weight_decay": 0.0},
        {"clip_norm": 0.01, "momentum": 0.9, "weight_decay": 0.2},
        {"batch_size": 100, "epochs": 3},
        {"epochs": 30, "batch_size": 4, "hidden_size": 2},
        {"training_head": "public", "decay_rounds": 6},
        {"training_head": "public", "head_epochs": 2, "clip_norm": 0.01},
    ],
)
def test_a_round_equals_the_plain_loop(hyperparameters: dict[str, Any]) -> None:
    training_plan = tiny_plan(**hyperparameters)
    plan = HyperFLPlan.model_validate(training_plan.hyperparameters)
    method = HyperFL(training_plan, CPU, RESOURCES)
    values = method.parameters(seed=3).initial_values()
    weights = {name: array.astype(np.float64) for name, array in values.items()}
    group = [in_float64(make_participant(method, i, num_train=n)) for i, n in enumerate([8, 13])]
    results = train_all(method, group, weights, round_number=4)
    for participant in group:
        found = results[participant.name]
        expected = plain_round(participant, weights, TinyExtractor(), plan, round_number=4)
        for name, delta in dense(found, weights).items():
            np.testing.assert_allclose(
                weights[name] + delta, expected.weights[name], rtol=1e-10, atol=1e-10, err_msg=name
            )
        assert found.private.keys() == expected.private.keys()
        for name, tensor in expected.private.items():
            torch.testing.assert_close(
                found.private[name], tensor, rtol=1e-10, atol=1e-10, msg=name
            )
        for name, value in expected.metrics.items():
            assert found.metrics[name] == pytest.approx(value, rel=1e-8), name
        assert found.num_examples == len(participant.data.train)


def test_a_client_learns_the_same_alone_in_a_group_and_in_a_divided_group() -> None:
    plan = tiny_plan()
    method = HyperFL(plan, CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, i, num_train=n) for i, n in enumerate([13, 3, 22, 8])]
    together = train_all(method, group, weights)
    in_parts = replace(RESOURCES, max_factor_bytes=1)
    divided = train_all(HyperFL(plan, CPU, in_parts), group, weights)
    assert together.keys() == divided.keys() == {p.name for p in group}
    for participant in group:
        alone = train_all(method, [participant], weights)[participant.name]
        assert_same_round(together[participant.name], alone, weights)
        assert_same_round(divided[participant.name], alone, weights)


@pytest.mark.parametrize(
    "plan",
    [tiny_plan("tiny_with_dropout"), tiny_plan(feature_dropout=0.5)],
    ids=["own", "features"],
)
def test_dropout_is_drawn_from_the_clients_own_stream(plan: TrainingPlan) -> None:
    method = HyperFL(plan, CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, i) for i in range(2)]
    state = torch.get_rng_state()
    together = train_all(method, group, weights)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    alone = train_all(method, group[1:], weights)
    assert_same_round(together["client-1"], alone["client-1"], weights)


def test_rounds_and_clients_draw_differently() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method, 0)
    first, again, second = (
        train_all(method, [participant], weights, round_number)["client-0"]
        for round_number in (1, 1, 2)
    )
    assert_same_round(first, again, weights, tolerance=0)
    assert first.metrics["train_loss"] != second.metrics["train_loss"]


def test_a_participant_is_never_changed() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    participant = make_participant(method, 0)
    before = {name: tensor.clone() for name, tensor in participant.private.items()}
    weights = method.parameters(seed=3).initial_values()
    for array in weights.values():
        array.flags.writeable = False
    result = train_all(method, [participant], weights)["client-0"]
    torch.testing.assert_close(participant.private, before, rtol=0, atol=0)
    for name, tensor in result.private.items():
        assert not torch.equal(tensor, before[name]), f"{name} was not trained"


def test_the_deltas_are_the_specifications_and_small() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    parameters = method.parameters(seed=3)
    weights = parameters.initial_values()
    result = train_all(method, [make_participant(method, 0)], weights)["client-0"]
    parameters.check_names(result.deltas)
    for name, delta in dense(result, weights).items():
        assert (delta.shape, delta.dtype) == (weights[name].shape, np.float32)
    factors = result.deltas["hypernetwork.output.weight"]
    assert isinstance(factors, FactoredDelta)
    assert factors.left.shape == (4, len(weights["hypernetwork.output.bias"]))
    assert factors.right.shape == (4, 4)


def test_the_metrics_of_a_round() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method, 0)
    result = train_all(method, [participant], weights)["client-0"]
    assert result.metrics.keys() == {
        "accuracy_before",
        "accuracy_after",
        "loss_before",
        "loss_after",
        "num_test_examples",
        "train_loss",
        "feature_norm_squared",
        "seconds_training",
    }
    assert result.metrics["num_test_examples"] == len(participant.data.test)
    assert result.metrics["seconds_training"] > 0
    after = {name: weights[name] + delta for name, delta in dense(result, weights).items()}
    trained = Participant("client-0", participant.data, result.private, participant.seed)
    evaluation = method.evaluate(trained, after)
    assert evaluation["accuracy"] == result.metrics["accuracy_after"]
    assert evaluation["loss"] == pytest.approx(result.metrics["loss_after"], rel=1e-5)
    assert evaluation["num_test_examples"] == len(participant.data.test)


def test_evaluation_uses_running_statistics_and_leaves_them_alone() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method, 0)
    first = method.evaluate(participant, weights)
    assert method.evaluate(participant, weights) == first
    participant.private["buffers.normalisation.running_mean"] += 1
    assert method.evaluate(participant, weights)["loss"] != first["loss"]


@pytest.mark.parametrize("calls_before_stop", [0, 1, 4, 9])
def test_training_stops_between_steps_when_asked(calls_before_stop: int) -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    answers = iter([False] * calls_before_stop + [True])
    group = [make_participant(method, i) for i in range(2)]
    with pytest.raises(TrainingInterrupted):
        list(method.train(group, weights, 1, lambda: next(answers)))
    assert list(answers) == []


def test_a_collapsed_trunk_is_reported() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    weights["hypernetwork.trunk.bias"] -= 100
    with capture_logs() as logs:
        train_all(method, [make_participant(method, 0)], weights, round_number=7)
    assert [(log["log_level"], log["client"], log["round"]) for log in logs] == [
        ("warning", "client-0", 7)
    ]


def test_a_diverged_client_is_named_after_the_others_are_done() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, i) for i in range(3)]
    group[1].private["head.weight"][0, 0] = torch.nan
    results = method.train(group, weights, 1, never)
    finished = []
    with pytest.raises(TrainingDivergedError) as caught:
        finished.extend(result.participant for result in results)
    assert caught.value.reasons.keys() == {"client-1"}
    assert "client-1" in str(caught.value)


def test_wrong_weights_are_refused_before_training() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    group = [make_participant(method, 0)]
    with pytest.raises(ValueError, match=r"missing: hypernetwork.trunk.bias"):
        method.train(group, {k: v for k, v in weights.items() if "trunk.bias" not in k}, 1, never)
    with pytest.raises(ValueError, match="not shared by this federation: embedding"):
        method.train(group, weights | {"embedding": np.zeros(6)}, 1, never)
    with pytest.raises(ValueError, match=r"trunk.bias has shape \(5,\), not \(4,\)"):
        method.train(group, weights | {"hypernetwork.trunk.bias": np.zeros(5)}, 1, never)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": torch.zeros(7)}, r"embedding has shape \(7,\), not \(6,\)"),
        ({"head.weight": torch.zeros(2, 5)}, "head.weight has shape"),
        ({"buffers.other": torch.zeros(1)}, "unexpected tensors: buffers.other"),
    ],
)
def test_wrong_private_tensors_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    participant = make_participant(method, 0)
    method.check_private(participant.private)
    with pytest.raises(ValueError, match=message):
        method.check_private(participant.private | change)
    participant.private |= change
    weights = method.parameters(seed=3).initial_values()
    with pytest.raises(ValueError, match=f"client client-0: .*{message}"):
        method.train([participant], weights, 1, never)
    with pytest.raises(ValueError, match=f"client client-0: .*{message}"):
        method.evaluate(participant, weights)


def test_a_missing_private_tensor_is_refused() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    private = method.initial_private(1)
    del private["buffers.normalisation.running_var"]
    with pytest.raises(ValueError, match=r"buffers.normalisation.running_var is missing"):
        method.check_private(private)


def test_data_that_does_not_fit_is_refused() -> None:
    method = HyperFL(tiny_plan(), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    participant = make_participant(method, 0)
    participant.data = random_client_data(seed=0, num_train=4, num_test=0)
    with pytest.raises(ValueError, match="client client-0: its training or test data is empty"):
        method.train([participant], weights, 1, never)
    participant = make_participant(method, 0)
    participant.data.train.labels[0] = 3
    with pytest.raises(ValueError, match="client-0: its data has label 3, but there are only 3"):
        method.train([participant], weights, 1, never)


def test_under_a_public_head_no_update_depends_on_a_clients_own() -> None:
    method = HyperFL(tiny_plan(training_head="public"), CPU, RESOURCES)
    weights = method.parameters(seed=3).initial_values()
    one = make_participant(method, 0)
    private = dict(one.private)
    private["head.weight"] = private["head.weight"] + 1
    results = [train_all(method, [each], weights) for each in (one, replace(one, private=private))]
    first, second = (result["client-0"] for result in results)
    for name, delta in dense(first, weights).items():
        np.testing.assert_array_equal(dense(second, weights)[name], delta, err_msg=name)
    for result, start in ((first, one.private), (second, private)):
        assert not torch.equal(result.private["head.weight"], start["head.weight"])


def test_a_public_head_needs_features_that_classes_are_read_off() -> None:
    plan = tiny_plan(training_head="public")
    extractor = FeatureExtractor(TinyExtractor(), 5, IMAGE_SHAPE, private_hidden_width=4)
    with pytest.raises(ModelError, match="has a hidden layer before them"):
        HyperFL(plan, CPU, RESOURCES, extractor=extractor)
    plan = plan.model_copy(update={"num_classes": 6})
    with pytest.raises(ModelError, match="5 features for 6 classes"):
        HyperFL(plan, CPU, RESOURCES)


def test_clients_start_with_different_embeddings_and_heads() -> None:
    method = HyperFL(tiny_plan(embedding_size=4000), CPU, RESOURCES)
    first, second = method.initial_private(1), method.initial_private(2)
    assert not torch.equal(first["embedding"], second["embedding"])
    assert not torch.equal(first["head.weight"], second["head.weight"])
    torch.testing.assert_close(method.initial_private(1), first, rtol=0, atol=0)
    assert float(first["embedding"].mean()) == pytest.approx(0, abs=0.1)
    assert float(first["embedding"].std()) == pytest.approx(1, abs=0.1)
    assert float(first["head.weight"].abs().max()) <= 5**-0.5


def test_the_specification_is_the_same_wherever_it_is_built() -> None:
    torch.manual_seed(1)
    first: ParameterSpecification = HyperFL(tiny_plan(), CPU, RESOURCES).parameters(seed=9)
    torch.manual_seed(2)
    assert HyperFL(tiny_plan(), CPU, RESOURCES).parameters(seed=9) == first


def test_frozen_parameters_are_neither_shared_nor_private() -> None:
    whole, partly = (
        HyperFL(tiny_plan(), CPU, RESOURCES),
        HyperFL(tiny_plan("partly_frozen"), CPU, RESOURCES),
    )
    sizes = [
        method.parameters(seed=0).by_name["hypernetwork.output.bias"].num_elements
        for method in (whole, partly)
    ]
    assert sizes[0] - sizes[1] == 3 * 9 + 3
    weights = partly.parameters(seed=0).initial_values()
    train_all(partly, [make_participant(partly, 0)], weights)
