"""Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD defines it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SGDSettings:
    """Learning rate η, momentum μ (no dampening), weight decay λ (part of the gradient)."""

    learning_rate: float
    momentum: float
    weight_decay: float


def sgd_step(
    parameter: torch.Tensor, gradient: torch.Tensor, velocity: torch.Tensor, settings: SGDSettings
) -> None:
    """One step in place: m ← μ m + g + λ w, w ← w − η m. ``velocity`` m starts as zeros."""
    velocity.mul_(settings.momentum).add_(gradient)
    velocity.add_(parameter, alpha=settings.weight_decay)
    parameter.sub_(velocity, alpha=settings.learning_rate)
