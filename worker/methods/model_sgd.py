"""Plain SGD on a client's whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from shared.plans import ModelPlan
from worker.methods.model_client import ModelClient
from worker.methods.sgd import SGDSettings, sgd_step

Tensors = dict[str, torch.Tensor]


class Descent:
    """SGD of some named tensors, in place; momentum starts at zero."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], settings: SGDSettings) -> None:
        self._parameters, self._settings = parameters, settings
        self._velocities = {name: torch.zeros_like(one) for name, one in parameters.items()}

    def step(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """One step along ``gradients``, one for each tensor."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                sgd_step(parameter, gradients[name], self._velocities[name], self._settings)


def settings_of(plan: ModelPlan) -> SGDSettings:
    """The plan's SGD."""
    return SGDSettings(plan.learning_rate, plan.momentum, plan.weight_decay)


def gradients_of(loss: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> Tensors:
    """∂loss/∂parameter by name."""
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


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
