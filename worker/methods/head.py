"""A client's classifier head: a linear layer from features to classes, private to the client."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, linear

from worker.methods.sgd import SGDSettings, sgd_step

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Head:
    """Weight (classes, width) and bias (classes,)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(B, classes) of features (B, width)."""
        return linear(features, self.weight, self.bias)


def initial_head(num_classes: int, width: int, generator: torch.Generator) -> Head:
    """A float32 head on the CPU, drawn as a linear layer is by default: U(±1/√width)."""
    bound = 1 / math.sqrt(width)
    return Head(
        torch.empty(num_classes, width).uniform_(-bound, bound, generator=generator),
        torch.empty(num_classes).uniform_(-bound, bound, generator=generator),
    )


def train_head(
    head: Head,
    batches: list[Batch],
    *,
    epochs: int,
    settings: SGDSettings,
    generator: torch.Generator,
) -> Head:
    """The head after ``epochs`` of SGD on features that do not change.

    Args:
        head: where to start; not changed.
        batches: features (B, width) and labels (B,), one epoch in the order of the first.
        epochs: how many; those after the first reorder the examples.
        settings: of the descent.
        generator: CPU generator of the later epochs' orders.
    """
    weight, bias = head.weight.clone(), head.bias.clone()
    velocities = torch.zeros_like(weight), torch.zeros_like(bias)
    for epoch in range(epochs):
        for features, labels in batches if epoch == 0 else _reordered(batches, generator):
            weight.requires_grad_()
            bias.requires_grad_()
            loss = cross_entropy(linear(features, weight, bias), labels)
            gradients = torch.autograd.grad(loss, (weight, bias))
            weight, bias = weight.detach(), bias.detach()
            for parameter, gradient, velocity in zip(
                (weight, bias), gradients, velocities, strict=True
            ):
                sgd_step(parameter, gradient, velocity, settings)
    return Head(weight, bias)


def _reordered(batches: list[Batch], generator: torch.Generator) -> list[Batch]:
    features = torch.cat([features for features, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    size = len(batches[0][1])
    return [(features[part], labels[part]) for part in torch.split(order, size)]
