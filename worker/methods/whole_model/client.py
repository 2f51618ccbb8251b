"""One client's extractor and head for a local round, trained as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch

from worker.data.client_data import Batch
from worker.methods.interface import Participant
from worker.methods.local_round.client import HEAD_PREFIX, LocalClient
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.methods.local_round.head import Head

EXTRACTOR_PREFIX = "extractor."


class ModelClient(LocalClient):
    """A participant's model on the device.

    Attributes:
        parameters: the trained tensors by name: ``extractor.<name>``, and the head's
            (:func:`worker.methods.local_round.head.head_shapes`). A method trains them in place.
        private: the participant's private tensors.
        seed: the participant's private seed.
        round_number: the round's.
    """

    def __init__(
        self,
        participant: Participant,
        parameters: Mapping[str, torch.Tensor],
        round_number: int,
        extractor: FunctionalExtractor,
        device: torch.device,
        stop_if_asked: Callable[[], None],
    ) -> None:
        """Copy the model to the device; ``parameters`` are the shared and the client's own."""
        super().__init__(participant, round_number, extractor, device, stop_if_asked)
        self.seed, self.private = participant.seed, participant.private
        self.round_number = round_number
        self.parameters = {
            name: tensor.to(device, copy=True) for name, tensor in parameters.items()
        }
        self._dtype = next(iter(self.head.tensors.values())).dtype

    @property
    def extractor_parameters(self) -> dict[str, torch.Tensor]:
        """Those of ``parameters`` that are the extractor's, by the same names."""
        return {
            name: tensor
            for name, tensor in self.parameters.items()
            if name.startswith(EXTRACTOR_PREFIX)
        }

    @property
    def head(self) -> Head:
        """The present head, whose tensors are those of ``parameters``."""
        return _head(self.parameters)

    def copy_buffers(self) -> dict[str, torch.Tensor]:
        """Copies of the present :attr:`buffers`."""
        return {name: tensor.clone() for name, tensor in self._buffers.items()}

    def restore_buffers(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """Puts back what :meth:`copy_buffers` gave."""
        self._buffers = dict(buffers)

    def sampled_batch(self, sample_rate: float, sampling: np.random.Generator) -> Batch | None:
        """Each training example with probability ``sample_rate`` (Poisson sampling); or None."""
        chosen = sampling.random(self.num_examples) < sample_rate
        positions = torch.from_numpy(chosen.nonzero()[0])
        return self._train.batch(positions, sampling) if len(positions) else None

    def training_mode(self) -> AbstractContextManager[None]:
        """Training mode for calls of :meth:`loss`; dropout draws from the client's stream."""
        return self._extractor.training_mode(self._noise)

    def features(
        self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, width) with these ``parameters``; in training mode buffers are updated."""
        extractor = {
            name.removeprefix(EXTRACTOR_PREFIX): tensor
            for name, tensor in parameters.items()
            if name.startswith(EXTRACTOR_PREFIX)
        }
        return self._extractor.call(extractor | self._buffers, inputs, self._dtype)

    def logits(self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """(B, classes) with these ``parameters`` in place of the present ones."""
        present = self.parameters | dict(parameters)
        return _head(present).logits(self.features(present, inputs))

    def loss(self, parameters: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Mean cross-entropy of a batch with these ``parameters`` in place of the present ones."""
        inputs, labels = batch
        present = self.parameters | dict(parameters)
        return _head(present).loss(self.features(present, inputs), labels)

    def evaluate(self, parameters: Mapping[str, torch.Tensor]) -> tuple[float, float]:
        """Accuracy (0 to 1) and mean loss of these ``parameters`` on the test split."""
        return self.measure(lambda inputs: self.logits(parameters, inputs))

    def logits_of_test(self, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (n, classes) of the test split on the CPU, with these ``parameters``."""
        return self.test_logits(lambda inputs: self.logits(parameters, inputs))


def _head(parameters: Mapping[str, torch.Tensor]) -> Head:
    return Head(
        {name: tensor for name, tensor in parameters.items() if name.startswith(HEAD_PREFIX)}
    )
