"""What an update says of its client without any search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.observed_rounds import CPU, LINEAR, LINEAR_SHAPE, digits, observe, plan_of
from tests.support.random_clients import RESOURCES
from worker.attacks.extractor_change import read_extractor_change
from worker.methods import build_method
from worker.methods.interface import Participant
from worker.methods.pfedhn import PFedHN


def test_fedpac_says_head_and_class_shares_as_they_are() -> None:
    seen = observe(plan_of("fedpac", LINEAR, LINEAR_SHAPE), list(range(40)), encoding="dense")
    change = read_extractor_change(seen.observation)
    assert change.head is not None
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(change.head[name], seen.private_after[name])
    shares = np.bincount(seen.labels.numpy(), minlength=10) / 40
    np.testing.assert_allclose(change.class_shares, shares, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 5e-3])
def test_of_pfedhn_embedding_and_model_before_and_after_are_read(weight_decay: float) -> None:
    settings = {
        "clip_norm": 1e6,
        "hypernetwork_learning_rate": 0.5,
        "weight_decay": weight_decay,
        "learning_rate": 0.1,
        "batch_size": 10,
    }
    plan = plan_of("pfedhn", LINEAR, LINEAR_SHAPE, **settings)
    seen = observe(plan, list(range(40)))
    change = read_extractor_change(seen.observation)
    embedding = seen.private["embedding"]
    assert change.embedding is not None
    torch.testing.assert_close(change.embedding, embedding, rtol=1e-3, atol=1e-3)
    method = build_method(plan, CPU, RESOURCES)
    assert isinstance(method, PFedHN)
    generated = method.personal_model(
        Participant("site", digits(LINEAR_SHAPE), seen.private, 7), seen.observation.weights
    )
    for name, parameter in generated.module.named_parameters():
        torch.testing.assert_close(change.before[name], parameter.detach(), rtol=1e-3, atol=1e-3)
    assert change.head is not None
    assert change.head_gradient is not None
    trained_head = {name: one - change.head_gradient[name] for name, one in change.head.items()}
    images = seen.pixel_range.normalised(seen.pixels)
    first = seen.network.loss(change.before, change.head, images, seen.labels)
    last = seen.network.loss(change.after, trained_head, images, seen.labels)
    assert float(last) < 0.5 * float(first)
