"""An extractor as a function: what training mode adds to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.support.random_clients import RESOURCES, TESTS_ALLOWED, random_client_data, tiny_plan
from worker.methods import build_method
from worker.methods.interface import Participant
from worker.methods.local_round.extractor import FunctionalExtractor, own_buffers
from worker.models.initial_ranges import generated_tensors
from worker.models.layout import ParameterLayout
from worker.models.registry import build_feature_extractor

CPU = torch.device("cpu")


def test_training_mode_leaves_out_a_share_of_the_features_and_scales_the_others_up() -> None:
    plan = tiny_plan("tiny_without_normalisation")
    template = build_feature_extractor(plan.model, plan.image_shape, TESTS_ALLOWED)
    layout = ParameterLayout(generated_tensors(template.module))
    extractor = FunctionalExtractor(template, layout, CPU, feature_dropout=0.25)
    theta = torch.cat([torch.rand(tensor.shape).flatten() for tensor in layout.tensors])
    data = random_client_data(1, 400)
    ((images, _),) = data.train.batches(400, CPU)
    whole = extractor.features(theta, {}, images)
    first, again, other = (
        extractor.training_features(theta, {}, images, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    dropped = first == 0
    assert not (whole == 0).any()
    assert 0.2 < dropped.float().mean() < 0.3  # 2,000 features: five standard deviations
    torch.testing.assert_close(first[~dropped], whole[~dropped] / 0.75)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_mode_draws_as_torch_does_when_it_is_seeded_and_leaves_its_stream() -> None:
    plan = tiny_plan("tiny_without_normalisation")
    template = build_feature_extractor(plan.model, plan.image_shape, TESTS_ALLOWED)
    layout = ParameterLayout(generated_tensors(template.module))
    extractor = FunctionalExtractor(template, layout, CPU)
    state = torch.get_rng_state()
    with extractor.training_mode(np.random.default_rng(3)):
        found = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(int(np.random.default_rng(3).integers(1 << 62)))
    assert torch.equal(found, torch.rand(4))


def test_one_value_per_channel_is_normalised_by_running_statistics_which_it_leaves_alone() -> None:
    """One value a channel has no variance; torch refuses to normalise by it."""
    plan = tiny_plan("with_normalised_vectors")
    template = build_feature_extractor(plan.model, plan.image_shape, TESTS_ALLOWED)
    layout = ParameterLayout(generated_tensors(template.module))
    extractor = FunctionalExtractor(template, layout, CPU)
    theta = torch.rand(sum(math.prod(tensor.shape) for tensor in layout.tensors))
    buffers = own_buffers(template.module)
    ((images, _),) = random_client_data(1, 4).train.batches(4, CPU)
    generator = np.random.default_rng(1)

    extractor.training_features(theta, buffers, images, generator)
    learned = {name: buffer.clone() for name, buffer in buffers.items()}
    alone = extractor.training_features(theta, buffers, images[:1], generator)

    assert learned["2.num_batches_tracked"] == 1
    torch.testing.assert_close(buffers, learned, rtol=0, atol=0)
    torch.testing.assert_close(alone, extractor.features(theta, buffers, images)[:1])
    extractor.training_features(theta, buffers, images, generator)
    assert buffers["2.num_batches_tracked"] == 2


@pytest.mark.parametrize("name", ["hyperfl", "fedavg", "local"])
def test_an_epoch_may_end_with_one_image(name: str) -> None:
    plan = tiny_plan("with_normalised_vectors").model_copy(
        update={"method": name, "hyperparameters": {"batch_size": 5, "epochs": 1}}
    )
    method = build_method(plan, CPU, RESOURCES)
    participants = [
        Participant(str(n), random_client_data(n, n), method.initial_private(n), n)
        for n in (10, 11)
    ]
    weights = method.parameters(seed=3).initial_values()
    results = list(method.train(participants, weights, 1, lambda: False))
    assert [result.participant for result in results] == ["10", "11"]
    assert all(result.metrics["loss_after"] > 0 for result in results)
