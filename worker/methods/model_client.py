"""One client's extractor and head for a local round, trained as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from worker.methods.base import Participant
from worker.methods.extraction import FunctionalExtractor
from worker.methods.head import Batch, Head
from worker.methods.random_streams import client_generator

EXTRACTOR_PREFIX, BUFFER_PREFIX = "extractor.", "buffers."
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
_EVALUATION_BATCH_SIZE = 256


class ModelClient:
    """A participant's model on the device. Neither the participant nor the weights are changed.

    Attributes:
        name: the client's name.
        num_examples: training examples.
        parameters: the trained tensors by name: ``extractor.<name>``, ``head.weight`` (classes,
            width), ``head.bias`` (classes,). A method trains them in place.
        private: the participant's private tensors.
        seed: the participant's private seed.
        metrics: what was measured so far, sent with the update.
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
        """Copy the model to the device.

        Args:
            participant: the client.
            parameters: the shared and the client's own, as they start.
            round_number: of the batches' order.
            extractor: the network.
            device: to train on.
            stop_if_asked: called before every batch.
        """
        self.name, self.seed, self.private = participant.name, participant.seed, participant.private
        self.num_examples = len(participant.data.train)
        self.parameters = {
            name: tensor.to(device, copy=True) for name, tensor in parameters.items()
        }
        self._buffers = {
            name.removeprefix(BUFFER_PREFIX): tensor.to(device, copy=True)
            for name, tensor in participant.private.items()
            if name.startswith(BUFFER_PREFIX)
        }
        self.metrics = {"num_test_examples": float(len(participant.data.test))}
        self._data, self._extractor, self._device = participant.data, extractor, device
        self._order = client_generator(participant.seed, "batches", round_number)
        self._noise = client_generator(participant.seed, "noise", round_number)
        self._stop_if_asked = stop_if_asked

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
        return Head({name: self.parameters[name] for name in (HEAD_WEIGHT, HEAD_BIAS)})

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The extractor's buffers by the names of the private tensors."""
        return {BUFFER_PREFIX + name: tensor for name, tensor in self._buffers.items()}

    @property
    def order(self) -> torch.Generator:
        """CPU generator of this round's batches."""
        return self._order

    def extractor_module(self) -> nn.Module:
        """The present extractor as a module of its own; see FunctionalExtractor.copy_with."""
        extractor = {
            name.removeprefix(EXTRACTOR_PREFIX): tensor
            for name, tensor in self.extractor_parameters.items()
        }
        return self._extractor.copy_with(extractor, self._buffers)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Batches of an epoch, the last short one included."""
        return math.ceil(self.num_examples / batch_size)

    def shuffled_batches(self, batch_size: int) -> Iterator[Batch]:
        """One epoch in a random order."""
        for batch in self._data.train.shuffled_batches(batch_size, self._device, self._order):
            self._stop_if_asked()
            yield self._as_parameters(batch)

    def sampled_batch(self, sample_rate: float) -> Batch | None:
        """Each training example with probability ``sample_rate`` (Poisson sampling); or None."""
        self._stop_if_asked()
        chosen = torch.rand(self.num_examples, generator=self._order) < sample_rate
        positions = chosen.nonzero().squeeze(1)
        if not len(positions):
            return None
        return self._as_parameters(self._data.train.batch(positions, self._device, self._order))

    def training_mode(self) -> AbstractContextManager[None]:
        """Training mode for calls of :meth:`loss`; dropout draws from the client's stream."""
        return self._extractor.training_mode(self._noise)

    def features(
        self, parameters: Mapping[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, width) with these ``parameters``; in training mode buffers are updated."""
        extractor = {
            name.removeprefix(EXTRACTOR_PREFIX): tensor
            for name, tensor in parameters.items()
            if name.startswith(EXTRACTOR_PREFIX)
        }
        return self._extractor.call(extractor | self._buffers, images)

    def loss(self, parameters: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Mean cross-entropy of a batch with these ``parameters`` in place of the present ones."""
        present = self.parameters | dict(parameters)
        head = Head({name: present[name] for name in (HEAD_WEIGHT, HEAD_BIAS)})
        images, labels = batch
        return cross_entropy(head.logits(self.features(present, images)), labels)

    def evaluate(self) -> tuple[float, float]:
        """Accuracy (0 to 1) and mean loss on the test split."""
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._extractor.evaluation_mode()
        with torch.no_grad():
            for batch in self._data.test.batches(_EVALUATION_BATCH_SIZE, self._device):
                images, labels = self._as_parameters(batch)
                logits = self.head.logits(self.features(self.parameters, images))
                correct += (logits.argmax(dim=1) == labels).sum()
                loss += cross_entropy(logits, labels, reduction="sum")
        count = len(self._data.test)
        return int(correct) / count, float(loss) / count

    def _as_parameters(self, batch: Batch) -> Batch:
        images, labels = batch
        return images.to(self.parameters[HEAD_BIAS].dtype), labels
