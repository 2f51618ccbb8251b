"""One client's part of a HyperFL round: its private tensors, its batches, its measurements."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import cross_entropy

from shared.plans import HyperFLPlan
from worker.methods.base import Participant, PrivateTensors
from worker.methods.extraction import FunctionalExtractor
from worker.methods.head import Batch, Head, train_head
from worker.methods.random_streams import client_generator
from worker.methods.sgd import SGDSettings

_HEAD_PREFIX = "head."
_BUFFER_PREFIX = "buffers."


class HyperFLClient:
    """A participant on the device for one round. The participant itself is never changed.

    Attributes:
        name: the client's name.
        num_examples: training examples.
        num_steps: steps of the hypernetwork in this round.
        embedding: v (e,) before the round, on the device.
        metrics: what was measured so far, sent with the update.
    """

    def __init__(
        self,
        participant: Participant,
        round_number: int,
        extractor: FunctionalExtractor,
        plan: HyperFLPlan,
        device: torch.device,
    ) -> None:
        private = participant.private
        self.name = participant.name
        self.num_examples = len(participant.data.train)
        self._batches_per_epoch = math.ceil(self.num_examples / plan.batch_size)
        self.num_steps = plan.epochs * self._batches_per_epoch
        self.embedding = private["embedding"].to(device)
        self._head = Head(
            {
                name: tensor.to(device)
                for name, tensor in private.items()
                if name.startswith(_HEAD_PREFIX)
            }
        )
        self._buffers = {
            name.removeprefix(_BUFFER_PREFIX): tensor.to(device, copy=True)
            for name, tensor in private.items()
            if name.startswith(_BUFFER_PREFIX)
        }
        self.metrics = {
            "num_test_examples": float(len(participant.data.test)),
            "seconds_training": 0.0,
        }
        self._data, self._extractor, self._plan = participant.data, extractor, plan
        self._device = device
        self._order = client_generator(participant.seed, "batches", round_number)
        self._noise = client_generator(participant.seed, "noise", round_number)
        self._batches = self._all_batches()
        self._steps_taken = 0
        self._last_epoch_loss = torch.zeros((), dtype=torch.float64, device=device)

    def evaluate(self, theta: torch.Tensor) -> tuple[float, float]:
        """Accuracy (0 to 1) and mean loss on the test split, with generated parameters θ (P,)."""
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        with torch.no_grad():
            batch_size = self._extractor.evaluation_batch_size
            for images, labels in self._data.test.batches(batch_size, self._device):
                logits = self._head.logits(self._extractor.features(theta, self._buffers, images))
                correct += (logits.argmax(dim=1) == labels).sum()
                loss += cross_entropy(logits, labels, reduction="sum")
        count = len(self._data.test)
        return int(correct) / count, float(loss) / count

    def train_head(self, theta: torch.Tensor, stop_if_asked: Callable[[], None]) -> None:
        """The head step: θ (P,) does not change, so each example's features are computed once."""
        if self._plan.head_epochs == 0:
            return
        started = time.perf_counter()
        batches: list[Batch] = []
        with torch.no_grad():
            for images, labels in self._shuffled_batches():
                stop_if_asked()
                features = self._training_features(theta, images)
                batches.append((features, labels))
        self._head = train_head(
            self._head,
            batches,
            epochs=self._plan.head_epochs,
            settings=SGDSettings(
                self._plan.head_learning_rate, self._plan.momentum, self._plan.weight_decay
            ),
            generator=self._order,
        )
        self.metrics["seconds_training"] += time.perf_counter() - started

    def gradient(self, theta: torch.Tensor) -> torch.Tensor:
        """∂L/∂θ (P,) of the next batch's mean loss at θ (P,)."""
        images, labels = next(self._batches)
        theta = theta.detach().requires_grad_()
        loss = cross_entropy(self._head.logits(self._training_features(theta, images)), labels)
        (gradient,) = torch.autograd.grad(loss, theta)
        self._steps_taken += 1
        if self._steps_taken > self.num_steps - self._batches_per_epoch:
            self._last_epoch_loss += loss.detach() * len(labels)
        return gradient

    @property
    def train_loss(self) -> float:
        """Mean loss over the last epoch's examples, each under the weights it was trained with."""
        return float(self._last_epoch_loss) / self.num_examples

    def private(self, embedding: torch.Tensor) -> PrivateTensors:
        """The private tensors after the round, on the CPU, with the new ``embedding`` (e,)."""
        tensors = {"embedding": embedding, **self._head.tensors} | {
            f"{_BUFFER_PREFIX}{name}": tensor for name, tensor in self._buffers.items()
        }
        return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}

    def _training_features(self, theta: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return self._extractor.training_features(theta, self._buffers, images, self._noise)

    def _shuffled_batches(self) -> Iterator[Batch]:
        return self._data.train.shuffled_batches(self._plan.batch_size, self._device, self._order)

    def _all_batches(self) -> Iterator[Batch]:
        for _ in range(self._plan.epochs):
            yield from self._shuffled_batches()
