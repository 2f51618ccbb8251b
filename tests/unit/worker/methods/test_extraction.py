"""An extractor as a function: what training mode adds to it."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.random_clients import random_client_data, tiny_plan
from worker.hypernetwork import ParameterLayout
from worker.methods.extraction import FunctionalExtractor
from worker.models.initial_ranges import generated_tensors
from worker.models.registry import build_feature_extractor

CPU = torch.device("cpu")


def test_training_mode_leaves_out_a_share_of_the_features_and_scales_the_others_up() -> None:
    plan = tiny_plan("tiny_without_normalisation")
    template = build_feature_extractor(plan.model, plan.image_shape)
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
