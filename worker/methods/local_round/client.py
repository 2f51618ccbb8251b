"""One client's part of a local round, whatever the method: its data, streams, measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from worker.data.client_data import Batch
from worker.methods.interface import Participant
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.methods.local_round.random_streams import client_generator

BUFFER_PREFIX, HEAD_PREFIX = "buffers.", "head."


class LocalClient:
    """A participant on the device for one round. The participant itself is never changed.

    Attributes:
        name: the client's name.
        number: the client's in its federation, if it is known.
        num_examples: training examples.
        metrics: what was measured so far, sent with the update.
    """

    def __init__(
        self,
        participant: Participant,
        round_number: int,
        extractor: FunctionalExtractor,
        device: torch.device,
        stop_if_asked: Callable[[], None],
    ) -> None:
        """Copy the client's buffers to the device.

        Args:
            participant: the client.
            round_number: of the batches' order; rounds count from 1.
            extractor: the network.
            device: to train on.
            stop_if_asked: called before every batch.
        """
        self.name, self.number = participant.name, participant.number
        self.num_examples = len(participant.data.train)
        self.metrics = {"num_test_examples": float(len(participant.data.test))}
        self._extractor, self._device = extractor, device
        self._buffers = {
            name.removeprefix(BUFFER_PREFIX): tensor.to(device, copy=True)
            for name, tensor in participant.private.items()
            if name.startswith(BUFFER_PREFIX)
        }
        self._train = extractor.inputs(participant.data.train, stop_if_asked)
        self._test = extractor.inputs(participant.data.test, stop_if_asked)
        self._order = client_generator(participant.seed, "batches", round_number)
        self._noise = client_generator(participant.seed, "noise", round_number)

    @property
    def order(self) -> np.random.Generator:
        """Generator of this round's batches."""
        return self._order

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The extractor's buffers in its shapes, by the names of the private tensors."""
        return {BUFFER_PREFIX + name: tensor for name, tensor in self._buffers.items()}

    def batches_per_epoch(self, batch_size: int) -> int:
        """Batches of an epoch, the last short one included."""
        return math.ceil(self.num_examples / batch_size)

    def shuffled_batches(self, batch_size: int) -> Iterator[Batch]:
        """One epoch in a random order: the network's inputs (B, ...) and labels (B,)."""
        return self._train.shuffled_batches(batch_size, self._order)

    def training_examples(self) -> Iterator[Batch]:
        """All training examples in order, never augmented, for evaluation mode, which begins."""
        self._extractor.evaluation_mode()
        return self._train.batches(self._extractor.evaluation_batch_size)

    def sampled_batches(self, sample_rate: float, sampling: np.random.Generator) -> Iterator[Batch]:
        """Each training example with probability ``sample_rate`` (Poisson sampling), in batches.

        They are never augmented, and as large as in evaluation.
        """
        chosen = torch.from_numpy((sampling.random(self.num_examples) < sample_rate).nonzero()[0])
        for positions in torch.split(chosen, self._extractor.evaluation_batch_size):
            if len(positions):
                yield self._train.batch(positions)

    def measure(self, logits_of: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float]:
        """Accuracy (0 to 1) and mean loss on the test split, in evaluation mode.

        Args:
            logits_of: logits (B, classes) of the network's inputs (B, ...).
        """
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._extractor.evaluation_mode()
        with torch.no_grad():
            for logits, labels in self._tested(logits_of):
                correct += (logits.argmax(dim=1) == labels).sum()
                loss += cross_entropy(logits, labels, reduction="sum")
        return int(correct) / len(self._test), float(loss) / len(self._test)

    def test_logits(self, logits_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Logits (n, classes) of the test split, in evaluation mode; on the CPU.

        Args:
            logits_of: as in :meth:`measure`.
        """
        self._extractor.evaluation_mode()
        with torch.no_grad():
            return torch.cat([logits.float().cpu() for logits, _ in self._tested(logits_of)])

    def _tested(self, logits_of: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Batch]:
        """Logits (B, classes) and labels (B,) of the test split, batch by batch."""
        for inputs, labels in self._test.batches(self._extractor.evaluation_batch_size):
            yield logits_of(inputs), labels
