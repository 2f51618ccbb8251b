"""What every training method is to the rest of the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from shared.arrays import Array, NamedArrays
from shared.federation.specification import ParameterSpecification
from shared.rest.declines import DeclineKind
from shared.tensors.low_rank import FactoredDelta
from worker.data.client_data import ClientData
from worker.errors import WorkerError
from worker.models.allowed_imports import NOTHING, AllowedImports

PrivateTensors = dict[str, torch.Tensor]
"""A client's own tensors by name, on the CPU. They never leave the worker."""

DIVERGED = "the training loss became NaN or infinite"


class TrainingInterrupted(WorkerError):
    """Training stopped between two steps because it was asked to; nothing has changed."""


class TrainingFailedError(WorkerError):
    """Some clients have nothing to send for this round.

    Attributes:
        reasons: why, by the client's name.
        kinds: of the reasons, likewise. A reason of kind ``other`` does not leave the site: nobody
            knows what a method writes.
    """

    def __init__(
        self,
        reasons: Mapping[str, str],
        kinds: DeclineKind | Mapping[str, DeclineKind] = DeclineKind.OTHER,
    ) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.reasons = dict(reasons)
        self.kinds = (
            dict.fromkeys(reasons, kinds) if isinstance(kinds, DeclineKind) else dict(kinds)
        )


class TrainingDivergedError(TrainingFailedError):
    """A client's loss became NaN or infinite, so its update would be worthless."""

    def __init__(self, participants: Sequence[str]) -> None:
        super().__init__(dict.fromkeys(participants, DIVERGED), DeclineKind.DIVERGENCE)


@dataclass(frozen=True)
class SiteResources:
    """What a method may use of the machine that it runs on.

    Attributes:
        max_factor_bytes: memory for the factors of clients in lock step. A group that needs more is
            trained in parts, cut in the group's order; a part is at least one client.
        max_feature_cache_bytes: memory on the training device for what a frozen backbone makes of
            the clients' images, and on CUDA for the images of other models. What does not fit is
            computed again for every batch.
        backbone_weights_file: this site's copy of a pretrained backbone's weights.
        allowed_imports: code that a specification may name.
    """

    max_factor_bytes: int = 1 << 30
    max_feature_cache_bytes: int = 1 << 30
    backbone_weights_file: Path | None = None
    allowed_imports: AllowedImports = NOTHING


DEFAULT_RESOURCES = SiteResources()


@dataclass
class Participant:
    """A client as a method sees it. A method reads it and never changes it.

    Attributes:
        name: the client's name in its federation.
        data: the client's examples.
        private: what ``Method.initial_private`` or the last ``TrainingResult`` gave.
        seed: private seed of all this client draws: initial values, batches, augmentation,
            dropout, a private method's samples and noise. Whoever knows it can take the noise away
            again. It has 128 bits from the system's entropy; 63 where the client was set up before
            seeds had more; no secret where the worker's configuration names it.
        number: the client's in its federation, from 0, no other client's and always the same: for
            methods in which each has a place. None where nobody gave it one: outside of rounds,
            and by a coordinator of before.
    """

    name: str
    data: ClientData
    private: PrivateTensors
    seed: int
    number: int | None = None


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What one client's local round gave.

    Attributes:
        participant: the client's name.
        num_examples: training examples, the weight of this update in the mean.
        deltas: change (after − before) of each shared tensor.
        private: the client's private tensors after the round.
        metrics: finite numbers by name, sent with the update.
        sensitivity: largest norm of what one training example changes in ``deltas``; None where
            nothing bounds it.
    """

    participant: str
    num_examples: int
    deltas: dict[str, Array | FactoredDelta]
    private: PrivateTensors
    metrics: dict[str, float]
    sensitivity: float | None = None


class Trains(Protocol):
    """The local round of a way to train."""

    def train(
        self,
        group: Sequence[Participant],
        weights: NamedArrays,
        round_number: int,
        should_stop: Callable[[], bool],
    ) -> Iterator[TrainingResult]:
        """One local round of every client in ``group``, from the same shared ``weights``.

        Yields each client's result as soon as it is done, in no promised order. A result depends
        on its client, the weights and the round alone, up to the rounding of sums.

        Raises:
            ValueError: weights, private tensors or data do not fit this method.
            TrainingInterrupted: ``should_stop`` returned True.
            TrainingFailedError: after all other results, if some clients have none.
        """


class Method(Trains, Protocol):
    """A way to train: what it shares, what it keeps, its local round."""

    def parameters(self, seed: int) -> ParameterSpecification:
        """The tensors this method shares and how they start; the same on every machine.

        Args:
            seed: of the shared tensors' first values, 63 bits.
        """

    def initial_private(self, client_seed: int) -> PrivateTensors:
        """A new client's private tensors, of any shapes, drawn from its private seed on the CPU."""

    def check_private(self, private: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless names and shapes are this method's private tensors'."""

    def evaluate(self, participant: Participant, weights: NamedArrays) -> dict[str, float]:
        """``accuracy`` (0 to 1), ``loss`` and ``num_test_examples`` of the personalised model.

        The model is the one that ``weights`` and the client's private tensors make, without
        training, on the client's test split.

        Raises:
            ValueError: weights, private tensors or data do not fit this method.
        """


@runtime_checkable
class Personalizes(Protocol):
    """What a method may be able to do besides: make a client's own model of finished weights."""

    def personalize(
        self,
        participant: Participant,
        weights: NamedArrays,
        epochs: int,
        should_stop: Callable[[], bool],
    ) -> PrivateTensors:
        """The client's private tensors after ``epochs`` on its training split; ``weights`` stay.

        They have the names and shapes that :meth:`Method.check_private` takes.

        Raises:
            ValueError: weights, private tensors or data do not fit this method.
            TrainingInterrupted: ``should_stop`` returned True.
            TrainingDivergedError: a private tensor became NaN or infinite.
        """


@runtime_checkable
class GivesLogits(Protocol):
    """What a method may be able to do besides: say what a client's model makes of each example."""

    def test_logits(self, participant: Participant, weights: NamedArrays) -> torch.Tensor:
        """Logits (n, classes) of the client's test split in its order, float32 on the CPU.

        The model is that of :meth:`Method.evaluate`.

        Raises:
            ValueError: weights, private tensors or data do not fit this method.
        """


@dataclass(frozen=True, eq=False)
class PersonalModel:
    """One client's whole model, on the CPU in evaluation mode.

    Attributes:
        module: normalised images (B, C, H, W) to features (B, width).
        head: features (B, width) to logits (B, classes).
    """

    module: nn.Module
    head: nn.Module


@runtime_checkable
class BuildsPersonalModel(Protocol):
    """What a method may be able to do besides: give a client's model by itself."""

    def personal_model(self, participant: Participant, weights: NamedArrays) -> PersonalModel:
        """The model that ``weights`` (float32, by name) and the client's private tensors make.

        Raises:
            ValueError: weights or private tensors do not fit this method.
        """
