"""A method that does not train: what remains of a round is the protocol's own cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from shared.arrays import NamedArrays
from shared.federation.initialisation import RowRange, TensorSpecification
from shared.federation.plans import TrainingPlan
from shared.federation.specification import ParameterSpecification
from worker.methods.interface import Participant, PrivateTensors, SiteResources, TrainingResult


class Idle:
    """Sends an update at once, of its own for every client and round."""

    def __init__(self, plan: TrainingPlan, device: torch.device, resources: SiteResources) -> None:
        del device, resources
        self._shape = (int(plan.hyperparameters["rows"]), int(plan.hyperparameters["columns"]))
        self._noise = np.random.default_rng(1).standard_normal(self._shape, np.float32)

    def parameters(self, seed: int) -> ParameterSpecification:
        start = RowRange(rows=self._shape[0], bound=0.1)
        return ParameterSpecification(
            seed=seed,
            tensors=(TensorSpecification(name="w", shape=self._shape, initialisation=(start,)),),
        )

    def initial_private(self, client_seed: int) -> PrivateTensors:
        return {"seed": torch.tensor([client_seed])}

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        del private

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        del weights, should_stop
        for index, participant in enumerate(group):
            size = np.float32(1e-3 * (index + 1) / round_number)
            yield TrainingResult(
                participant.name, 100, {"w": self._noise * size}, participant.private, {}
            )

    def evaluate(self, participant: Participant, weights: NamedArrays) -> dict[str, float]:
        del participant, weights
        return {"accuracy": 0.0, "loss": 0.0, "num_test_examples": 1.0}
