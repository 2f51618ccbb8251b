"""fedbn keeps each client's batch normalisation, and refuses a model that has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.federation.plans import TrainingPlan
from tests.support.random_clients import IMAGE_SHAPE, NUM_CLASSES, RESOURCES, random_client_data
from worker.errors import ModelError
from worker.methods import build_method
from worker.methods.interface import Participant

CPU = torch.device("cpu")
NORMALISATION = {"extractor.normalisation.weight", "extractor.normalisation.bias"}


def _plan(model: str) -> TrainingPlan:
    return TrainingPlan(
        method="fedbn",
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"batch_size": 5, "epochs": 1},
    )


def test_batch_normalisation_stays_and_all_else_is_shared() -> None:
    method = build_method(_plan("tiny"), CPU, RESOURCES)
    private = method.initial_private(7)
    shared = method.parameters(seed=3)
    assert {name for name in private if name.startswith("extractor.")} == NORMALISATION
    assert shared.by_name.keys() == {
        *("extractor.convolution.weight", "extractor.convolution.bias"),
        *("extractor.linear.weight", "extractor.linear.bias", "head.weight", "head.bias"),
    }
    np.testing.assert_array_equal(private["extractor.normalisation.weight"], 1)
    participant = Participant("site-a", random_client_data(0, 13), private, 7)
    (result,) = method.train([participant], shared.initial_values(), 1, lambda: False)
    for name in NORMALISATION:
        assert not torch.equal(result.private[name], private[name]), name
    assert not torch.equal(
        result.private["buffers.normalisation.running_mean"],
        private["buffers.normalisation.running_mean"],
    )


@pytest.mark.parametrize("model", ["tiny_without_normalisation", "entirely_without_scale"])
def test_a_model_without_any_is_refused(model: str) -> None:
    with pytest.raises(ModelError, match=r"has no batch normalisation that is trained, .* fedavg"):
        build_method(_plan(model), CPU, RESOURCES)
