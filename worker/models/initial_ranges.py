"""The tensors of an extractor that are to be generated, each with the range it starts in."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from worker.models.layout import TrainableTensor


def generated_tensors(module: nn.Module) -> list[TrainableTensor]:
    """The trainable parameters of ``module``, in its own order.

    Linear and convolutional layers start in U(±1/√fan_in), torch's default, whatever values the
    template happened to draw. Of any other layer, and where all values are one constant, as a
    normalisation layer's are and those of a layer that is to add nothing at first, the template's
    values are measured.
    """
    owners = {
        parameter: owner
        for owner in module.modules()
        for parameter in owner.parameters(recurse=False)
    }
    tensors = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            centre, bound = _initial_range(owners[parameter], parameter.detach())
            tensors.append(TrainableTensor(name, tuple(parameter.shape), centre, bound))
    return tensors


def _initial_range(owner: nn.Module, values: torch.Tensor) -> tuple[float, float]:
    constant = values.numel() > 1 and bool((values == values.flatten()[0]).all())
    if isinstance(owner, nn.Linear | _ConvNd) and not constant:
        return 0.0, 1 / math.sqrt(owner.weight[0].numel())
    values = values.double()
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    # Workers compare specifications exactly, and the last bits of a sum differ between machines.
    return _rounded(mean), _rounded(math.sqrt(3) * deviation)


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")
