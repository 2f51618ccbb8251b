"""Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD defines it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_EPSILON = 1e-6


@dataclass(frozen=True)
class SGDSettings:
    """Learning rate η, momentum μ (no dampening), weight decay λ (part of the gradient)."""

    learning_rate: float
    momentum: float
    weight_decay: float


def clip_factor(norm: torch.Tensor, largest: float) -> torch.Tensor:
    """What to multiply by so that ``norm`` (…) is at most ``largest``, up to 1 (…).

    As torch.nn.utils.clip_grad_norm_ does, which adds the same number before it divides.
    """
    return (largest / (norm + _EPSILON)).clamp(max=1.0)


def sgd_step(
    parameter: torch.Tensor, gradient: torch.Tensor, velocity: torch.Tensor, settings: SGDSettings
) -> None:
    """One step in place: m ← μ m + g + λ w, w ← w − η m. ``velocity`` m starts as zeros."""
    velocity.mul_(settings.momentum).add_(gradient)
    velocity.add_(parameter, alpha=settings.weight_decay)
    parameter.sub_(velocity, alpha=settings.learning_rate)
