"""A training method that trains nothing, and does what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from shared.arrays import Array, NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.tensors.low_rank import FactoredDelta
from worker.methods.interface import (
    Participant,
    PrivateTensors,
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingResult,
)
from worker.models.layout import check_shapes


class StubMethod:
    """One step a client; its change and its private tensors count the rounds it was trained in.

    Attributes:
        extra_deltas: what every client would send beside its change, or in place of it.
        diverging: clients whose loss is NaN.
        before_step: called in the training thread before each client's step.
        trained: each (client, round) that was trained to its end, in order.
    """

    def __init__(self, parameters: ParameterSpecification) -> None:
        self._parameters = parameters
        self.extra_deltas: dict[str, Array | FactoredDelta] = {}
        self.diverging: set[str] = set()
        self.accuracy_before: dict[tuple[str, int], float] = {}
        self.before_step: Callable[[Participant], None] = lambda _: None
        self.trained: list[tuple[str, int]] = []

    def parameters(self, seed: int) -> ParameterSpecification:
        return self._parameters.model_copy(update={"seed": seed})

    def initial_private(self, client_seed: int) -> PrivateTensors:
        return {"embedding": torch.zeros(3), "head.weight": torch.zeros(2, 2)}

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        check_shapes(private, {"embedding": (3,), "head.weight": (2, 2)})

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        for participant in group:
            self.before_step(participant)
            if should_stop():
                raise TrainingInterrupted
            if participant.name in self.diverging:
                continue
            self.trained.append((participant.name, round_number))
            deltas = self.extra_deltas.copy()
            for name, array in weights.items():
                deltas.setdefault(name, np.full_like(array, round_number))
            yield TrainingResult(
                participant=participant.name,
                num_examples=len(participant.data.train),
                deltas=deltas,
                private={
                    name: tensor + round_number for name, tensor in participant.private.items()
                },
                metrics={
                    "accuracy_after": 0.5,
                    **self._accuracy_before(participant.name, round_number),
                },
            )
        if diverged := [one.name for one in group if one.name in self.diverging]:
            raise TrainingDivergedError(diverged)

    def _accuracy_before(self, client: str, round_number: int) -> dict[str, float]:
        accuracy = self.accuracy_before.get((client, round_number))
        return {} if accuracy is None else {"accuracy_before": accuracy}

    def evaluate(self, participant: Participant, weights: NamedArrays) -> dict[str, float]:
        return {
            "accuracy": 0.25,
            "loss": float(participant.private["embedding"].sum()),
            "num_test_examples": float(len(participant.data.test)),
        }
