"""What every method here does with a group of clients, whatever it trains.

A method says what it shares and keeps, and how it trains; this reads the weights, checks the
clients, keeps those that have nothing to send out of the results, and names them at the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.nn.functional import cross_entropy

from shared.arrays import NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.rest.declines import DeclineKind
from worker.errors import WorkerError
from worker.methods.interface import (
    DIVERGED,
    Participant,
    PrivateTensors,
    TrainingDivergedError,
    TrainingFailedError,
    TrainingInterrupted,
    TrainingResult,
)

SharedT = TypeVar("SharedT")


@dataclass(frozen=True)
class NothingToSend:
    """A client that has no result for this round, and why."""

    participant: str
    reason: str
    kind: DeclineKind = DeclineKind.OTHER


class CannotTrain(WorkerError):
    """A client may not train in this round; the message says why.

    Attributes:
        kind: of the reason. The coordinator gets no message of kind ``other``.
    """

    def __init__(self, why: str, kind: DeclineKind = DeclineKind.OTHER) -> None:
        super().__init__(why)
        self.kind = kind


class BaseMethod(ABC, Generic[SharedT]):
    """Base of the methods; see :class:`worker.methods.interface.Method`.

    ``SharedT`` is what a method makes of the shared weights, on its device.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    @abstractmethod
    def parameters(self, seed: int) -> ParameterSpecification:
        """The shared tensors; see :class:`worker.methods.interface.Method`."""

    @abstractmethod
    def initial_private(self, client_seed: int) -> PrivateTensors:
        """A new client's private tensors; see :class:`worker.methods.interface.Method`."""

    @abstractmethod
    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless names and shapes are this method's private tensors'."""

    @abstractmethod
    def read(self, weights: NamedArrays) -> SharedT:
        """The shared weights as the method uses them. Raises ValueError if they do not fit."""

    @abstractmethod
    def train_group(
        self,
        group: Sequence[Participant],
        shared: SharedT,
        round_number: int,
        stop_if_asked: Callable[[], None],
    ) -> Iterator[TrainingResult | NothingToSend]:
        """Every client's outcome; a result with a metric that is not finite has diverged."""

    @abstractmethod
    def logits_of(self, participant: Participant, shared: SharedT) -> torch.Tensor:
        """Logits (n, classes) of the client's test split, float32 on the CPU."""

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        """One local round of every client in ``group``; see ``Method`` in the interface.

        Metrics of every method: ``accuracy_before``, ``accuracy_after``, ``loss_before``,
        ``loss_after`` and ``num_test_examples`` of the test split, and ``seconds_training``, where
        what clients do together counts in equal shares.
        """
        shared = self.read(weights)
        for participant in group:
            self.check(participant)
        return _sorted_out(self.train_group(group, shared, round_number, raising_stop(should_stop)))

    def evaluate(self, participant: Participant, weights: NamedArrays) -> dict[str, float]:
        """See :class:`worker.methods.interface.Method`."""
        logits = self.test_logits(participant, weights)
        labels = participant.data.test.labels
        return {
            "accuracy": int((logits.argmax(dim=1) == labels).sum()) / len(labels),
            "loss": float(cross_entropy(logits.double(), labels)),
            "num_test_examples": float(len(participant.data.test)),
        }

    def test_logits(self, participant: Participant, weights: NamedArrays) -> torch.Tensor:
        """See :class:`worker.methods.interface.GivesLogits`."""
        self.check(participant)
        return self.logits_of(participant, self.read(weights))

    def check(self, participant: Participant) -> None:
        """Raises ValueError, with the client's name, unless its tensors and data fit."""
        try:
            self.check_private(participant.private)
            for split in (participant.data.train, participant.data.test):
                if not len(split):
                    raise ValueError("its training or test data is empty")
                if (largest := int(split.labels.max())) >= self._num_classes:
                    raise ValueError(
                        f"its data has label {largest}, but there are only "
                        f"{self._num_classes} classes"
                    )
        except ValueError as error:
            raise ValueError(f"client {participant.name}: {error}") from error


def raising_stop(should_stop: Callable[[], bool]) -> Callable[[], None]:
    """A function that raises TrainingInterrupted once ``should_stop`` returns True."""

    def stop_if_asked() -> None:
        if should_stop():
            raise TrainingInterrupted

    return stop_if_asked


def _sorted_out(
    outcomes: Iterator[TrainingResult | NothingToSend],
) -> Iterator[TrainingResult]:
    failed: dict[str, str] = {}
    kinds: dict[str, DeclineKind] = {}
    for outcome in outcomes:
        if isinstance(outcome, NothingToSend):
            failed[outcome.participant] = outcome.reason
            kinds[outcome.participant] = outcome.kind
        elif not all(map(math.isfinite, outcome.metrics.values())):
            failed[outcome.participant] = DIVERGED
            kinds[outcome.participant] = DeclineKind.DIVERGENCE
        else:
            yield outcome
    if failed:
        if set(failed.values()) == {DIVERGED}:
            raise TrainingDivergedError(list(failed))
        raise TrainingFailedError(failed, kinds)
