"""One client's part of a HyperFL round: its private tensors, its batches, its measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from shared.federation.hyperparameters import HypernetworkPlan
from worker.data.client_data import Batch
from worker.methods.interface import Participant, PrivateTensors
from worker.methods.local_round.client import HEAD_PREFIX, LocalClient
from worker.methods.local_round.extractor import FunctionalExtractor
from worker.methods.local_round.head import Head, train_head
from worker.methods.local_round.sgd import head_settings_of


class HyperFLClient(LocalClient):
    """A client that trains a head, and gives gradients of generated parameters.

    Attributes:
        num_steps: steps of the hypernetwork in this round.
        embedding: v (e,) before the round, on the device.
    """

    def __init__(
        self,
        participant: Participant,
        round_number: int,
        extractor: FunctionalExtractor,
        plan: HypernetworkPlan,
        device: torch.device,
        stop_if_asked: Callable[[], None],
        training_head: Head | None = None,
    ) -> None:
        """Start a client's round; its gradients are its own head's, or ``training_head``'s."""
        super().__init__(participant, round_number, extractor, device, stop_if_asked)
        private = participant.private
        self._batches_per_epoch = self.batches_per_epoch(plan.batch_size)
        self.num_steps = plan.epochs * self._batches_per_epoch
        self.embedding = private["embedding"].to(device)
        self._head = Head(
            {
                name: tensor.to(device)
                for name, tensor in private.items()
                if name.startswith(HEAD_PREFIX)
            }
        )
        self._training_head = training_head and training_head.like(self.embedding)
        self.metrics["seconds_training"] = 0.0
        self._plan = plan
        self._batches = self._all_batches()
        self._steps_taken = 0
        self._last_epoch_loss = torch.zeros((), dtype=torch.float64, device=device)

    def evaluate(self, theta: torch.Tensor) -> tuple[float, float]:
        """Accuracy (0 to 1) and mean loss on the test split, with generated parameters θ (P,)."""
        return self.measure(lambda inputs: self._logits(theta, inputs))

    def logits_of_test(self, theta: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of the test split on the CPU, with generated parameters θ (P,)."""
        return self.test_logits(lambda inputs: self._logits(theta, inputs))

    def _logits(self, theta: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return self._head.logits(self._extractor.features(theta, self._buffers, inputs))

    def train_head(self, theta: torch.Tensor) -> None:
        """The head step: θ (P,) does not change, so each example's features are computed once."""
        if self._plan.head_epochs == 0:
            return
        started = time.perf_counter()
        batches: list[Batch] = []
        with torch.no_grad():
            for inputs, labels in self.shuffled_batches(self._plan.batch_size):
                batches.append((self._training_features(theta, inputs), labels))
        self._head = train_head(
            self._head,
            batches,
            epochs=self._plan.head_epochs,
            settings=head_settings_of(self._plan),
            generator=self._order,
        )
        self.metrics["seconds_training"] += time.perf_counter() - started

    @property
    def gradient_head(self) -> Head:
        """The head of :meth:`gradient`."""
        return self._training_head or self._head

    def gradient(self, theta: torch.Tensor) -> torch.Tensor:
        """∂L/∂θ (P,) of the next batch's mean loss at θ (P,)."""
        inputs, labels = self.next_batch()
        theta = theta.detach().requires_grad_()
        loss = self.gradient_head.loss(self._training_features(theta, inputs), labels)
        (gradient,) = torch.autograd.grad(loss, theta)
        self.count_step(loss.detach(), len(labels))
        return gradient

    def next_batch(self) -> Batch:
        """The next step's inputs (B, ...) and labels (B,)."""
        return next(self._batches)

    def dropout_mask(self, num_examples: int, dtype: torch.dtype) -> torch.Tensor:
        """The next step's draw of :meth:`FunctionalExtractor.dropout_mask`."""
        return self._extractor.dropout_mask(num_examples, dtype, self._noise)

    def count_step(self, loss: torch.Tensor, num_examples: int) -> None:
        """A step was taken along the gradient of a batch's mean ``loss``, a scalar."""
        self._steps_taken += 1
        if self._steps_taken > self.num_steps - self._batches_per_epoch:
            self._last_epoch_loss += loss * num_examples

    @property
    def train_loss(self) -> float:
        """Mean loss over the last epoch's examples, each under the weights it was trained with."""
        return float(self._last_epoch_loss) / self.num_examples

    def private(self, embedding: torch.Tensor) -> PrivateTensors:
        """The private tensors after the round, on the CPU, with the new ``embedding`` (e,)."""
        tensors = {"embedding": embedding, **self._head.tensors} | self.buffers
        return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}

    def _training_features(self, theta: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return self._extractor.training_features(theta, self._buffers, inputs, self._noise)

    def _all_batches(self) -> Iterator[Batch]:
        for _ in range(self._plan.epochs):
            yield from self.shuffled_batches(self._plan.batch_size)
