"""Plain SGD on a client's whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from shared.federation.hyperparameters import ModelPlan
from worker.data.client_data import Batch
from worker.methods.local_round.head import train_head
from worker.methods.local_round.sgd import Descent, SGDSettings, gradients_of, settings_of
from worker.methods.whole_model.client import ModelClient

LossOf = Callable[[Mapping[str, torch.Tensor], Batch], torch.Tensor]


@dataclass(frozen=True)
class Pull:
    """A proximal term weight/2·‖w − anchor‖² of the loss (Li et al., MLSys 2020).

    Attributes:
        anchor: where to, by name, in the shapes of what is trained.
        weight: at least 0.
    """

    anchor: Mapping[str, torch.Tensor]
    weight: float


def train_parameters(
    client: ModelClient,
    trained: Mapping[str, torch.Tensor],
    settings: SGDSettings,
    *,
    epochs: int,
    batch_size: int,
    pull: Pull | None = None,
    loss_of: LossOf | None = None,
) -> float:
    """``epochs`` of SGD on ``trained``, in place; the client's other parameters stay.

    ``loss_of`` gives a batch's loss with ``trained`` as it is; by default ``client.loss``.

    Returns:
        Mean loss over the last epoch's examples, each under the weights it was trained with. What
        pulls is not in it.
    """
    descent = Descent(trained, settings)
    loss_of = loss_of or client.loss
    for _ in range(epochs):
        total = torch.zeros((), dtype=torch.float64)
        for batch in client.shuffled_batches(batch_size):
            leaves = {name: one.detach().requires_grad_() for name, one in trained.items()}
            with client.training_mode():
                loss = loss_of(leaves, batch)
            gradients = gradients_of(loss, leaves)
            if pull is not None:
                for name, gradient in gradients.items():
                    gradient.add_(trained[name] - pull.anchor[name], alpha=pull.weight)
            descent.step(gradients)
            total = total.to(loss.device) + loss.detach() * len(batch[1])
    return float(total) / client.num_examples


def train_model(client: ModelClient, plan: ModelPlan, pull: Pull | None = None) -> None:
    """``plan.epochs`` of SGD on extractor and head, a new optimizer each round.

    Metric: ``train_loss``, as :func:`train_parameters` returns it.
    """
    client.metrics["train_loss"] = train_parameters(
        client,
        client.parameters,
        settings_of(plan),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        pull=pull,
    )


def train_head_first(
    client: ModelClient, *, epochs: int, batch_size: int, settings: SGDSettings
) -> None:
    """``epochs`` of SGD on the head under a fixed extractor, in training mode, in place.

    All epochs see the features of the first one's pass; without epochs there is none.
    """
    if not epochs:
        return
    batches: list[Batch] = []
    with torch.no_grad():
        for images, labels in client.shuffled_batches(batch_size):
            with client.training_mode():
                batches.append((client.features(client.parameters, images), labels))
    head = train_head(
        client.head, batches, epochs=epochs, settings=settings, generator=client.order
    )
    client.parameters |= head.tensors
