"""Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD defines it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shared.federation.hyperparameters import FedPACPlan, HypernetworkPlan, ModelPlan, PPSGDPlan

_EPSILON = 1e-6


@dataclass(frozen=True)
class SGDSettings:
    """Learning rate η, momentum μ (no dampening), weight decay λ (part of the gradient)."""

    learning_rate: float
    momentum: float
    weight_decay: float


def settings_of(plan: ModelPlan | HypernetworkPlan) -> SGDSettings:
    """The plan's SGD."""
    return SGDSettings(plan.learning_rate, plan.momentum, plan.weight_decay)


def head_settings_of(plan: HypernetworkPlan | PPSGDPlan | FedPACPlan) -> SGDSettings:
    """The plan's SGD of a private head."""
    return SGDSettings(plan.head_learning_rate, plan.momentum, plan.weight_decay)


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


class Descent:
    """SGD of some named tensors, in place; momentum starts at zero."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], settings: SGDSettings) -> None:
        self._parameters, self._settings = parameters, settings
        self._velocities = {name: torch.zeros_like(one) for name, one in parameters.items()}

    def step(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """One step along ``gradients``, one for each tensor and of its shape."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                sgd_step(parameter, gradients[name], self._velocities[name], self._settings)


def gradients_of(
    loss: torch.Tensor, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """∂loss/∂parameter by name, each of its parameter's shape; ``loss`` is a scalar."""
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))
