"""What README says that the coordinator can compute from a HyperFL update, computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.plans import PRESETS, TrainingPlan
from shared.federation.specification import EncodingPlan
from shared.tensors.encodings import encoding_for
from shared.tensors.low_rank import FactoredDelta
from tests.support.random_clients import random_client_data
from worker.methods import build_method
from worker.methods.hypernetwork.weights import HypernetworkWeights
from worker.methods.interface import Participant

CPU = torch.device("cpu")
SHAPE = (1, 28, 28)
TRUNK, BIAS, OUTPUT = (
    f"hypernetwork.{name}" for name in ("trunk.weight", "trunk.bias", "output.weight")
)


@pytest.mark.parametrize(("preset", "percent"), [("default", 5.0), ("paper", 0.5)])
def test_a_whole_round_hides_neither_the_embedding_nor_how_the_extractor_changed(
    preset: str, percent: float
) -> None:
    settings = HyperFLPlan(**PRESETS["hyperfl"][preset])
    plan = TrainingPlan(
        method="hyperfl",
        model="cnn-mnist",
        image_shape=SHAPE,
        num_classes=3,
        hyperparameters=settings.model_dump(),
    )
    method = build_method(plan, CPU)
    parameters = method.parameters(seed=3)
    before = parameters.initial_values()
    data = random_client_data(1, 200, image_shape=SHAPE)
    site = Participant("site", data, method.initial_private(7), 7)
    (result,) = method.train([site], before, 1, lambda: False)
    encoding = encoding_for(EncodingPlan())
    upload = encoding.encode(result.deltas, {}, before, parameters).wire

    # From here on: what the coordinator has.
    changes: dict[str, Any] = dict(encoding.decode(upload, parameters))
    output = changes[OUTPUT]
    assert isinstance(output, FactoredDelta)
    # Each of a round's steps adds c·vᵀ to the trunk's weight and c to its bias, v hardly moves,
    # and weight decay takes the share `output.scale` of both.
    learned = {name: changes[name] - output.scale * before[name] for name in (TRUNK, BIAS)}
    embedding = torch.tensor(
        learned[BIAS] @ learned[TRUNK] / (learned[BIAS] @ learned[BIAS]), dtype=torch.float32
    )
    after = before | {name: before[name] + changes[name] for name in changes if name != OUTPUT}
    after[OUTPUT] = before[OUTPUT] + output.dense(before[OUTPUT])

    def extractor(weights: dict[str, Any], of: torch.Tensor) -> torch.Tensor:
        found = HypernetworkWeights.from_arrays(weights, parameters, CPU)
        return found.generate(of, settings.feature_scale)

    first, last = site.private["embedding"], result.private["embedding"]
    change = extractor(after, last) - extractor(before, first)
    found = extractor(after, embedding) - extractor(before, embedding)
    assert relative_error(embedding, first) < percent / 100
    assert relative_error(found, change) < percent / 100


def relative_error(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())
