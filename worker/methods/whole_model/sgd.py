"""Plain SGD on a client's whole model."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from shared.federation.plans import ModelPlan
from worker.methods.local_round.sgd import Descent, SGDSettings, gradients_of, settings_of
from worker.methods.whole_model.client import ModelClient


def train_parameters(
    client: ModelClient,
    names: Iterable[str],
    settings: SGDSettings,
    *,
    epochs: int,
    batch_size: int,
) -> float:
    """``epochs`` of SGD on the client's parameters of these names; the others stay.

    Returns:
        Mean loss over the last epoch's examples, each under the weights it was trained with.
    """
    trained = {name: client.parameters[name] for name in names}
    descent = Descent(trained, settings)
    for _ in range(epochs):
        total = torch.zeros((), dtype=torch.float64)
        for batch in client.shuffled_batches(batch_size):
            leaves = {name: one.detach().requires_grad_() for name, one in trained.items()}
            with client.training_mode():
                loss = client.loss(leaves, batch)
            descent.step(gradients_of(loss, leaves))
            total = total.to(loss.device) + loss.detach() * len(batch[1])
    return float(total) / client.num_examples


def train_model(client: ModelClient, plan: ModelPlan) -> None:
    """``plan.epochs`` of SGD on extractor and head, a new optimizer each round.

    Metric: ``train_loss``, as :func:`train_parameters` returns it.
    """
    client.metrics["train_loss"] = train_parameters(
        client,
        client.parameters,
        settings_of(plan),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
    )
