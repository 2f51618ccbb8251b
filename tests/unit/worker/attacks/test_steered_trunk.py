"""A trunk that was made for some clients' embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.attacks.steered_trunk import steer_trunk
from worker.methods.hypernetwork.weights import TRUNK_BIAS, TRUNK_WEIGHT, hidden_features


@pytest.mark.parametrize(("clients", "features"), [(2, 16), (10, 16), (16, 16), (10, 4), (30, 16)])
def test_each_feature_is_one_clients(clients: int, features: int) -> None:
    embeddings = np.random.default_rng(0).standard_normal((clients, 16))
    weights = {
        TRUNK_WEIGHT: np.zeros((features, 16), np.float32),
        TRUNK_BIAS: np.zeros(features, np.float32),
        "other": np.ones(3, np.float32),
    }
    steered = steer_trunk(weights, embeddings)
    assert steered["other"] is weights["other"]
    trunk, bias = (torch.from_numpy(steered[name]) for name in (TRUNK_WEIGHT, TRUNK_BIAS))
    found = hidden_features(trunk, bias, torch.from_numpy(embeddings).float(), 1.0)
    expected = torch.eye(clients, features)
    if clients <= 16:
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    else:
        assert float((found > 0).float()[:, :features].sum(0).mean()) < 3.0
