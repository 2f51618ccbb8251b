"""The least that a step of local training can cost: bytes moved and operations, counted.

All numbers are float32, of 4 bytes. P is the number of generated parameters, h of hidden features,
n of clients in lock step, T of steps of a round, B of examples of a batch. Activations are left
out, since they may stay in a cache; so a floor is lower than what is possible.

HyperFL, a client and step:

    bytes       4·((2h + 1)·P / n)      W twice (W f and Wᵀ g) and b, once for all clients
                + 4·P·(T − 1)           earlier gradients, on average (T − 1)/2, twice
                + 4·4·P                 θ and ∂L/∂θ, each written and read
                + 4·B·(elements of an image)
    operations  4·P·h + 2·P·(T − 1)     what W and the earlier gradients are multiplied by
                + the network's

FedAvg, with P including the head:

    bytes       6·4·P                   w, g and momentum, each read and written
                + 4·B·(elements of an image)
    operations  6·P                     momentum, weight decay, learning rate
                + the network's

A layer's forward pass is 2·B·(outputs of an example)·(weights of an output) operations, its
gradient by its weights as many, and by its inputs as many. The first layer needs none by its
inputs, and HyperFL's head none by its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worker.data.images import ImageShape

_BYTES = 4


@dataclass(frozen=True)
class Rates:
    """What a machine was seen to do."""

    bytes_per_second: float
    operations_per_second: float


@dataclass(frozen=True)
class Work:
    """What a step has to do for one client."""

    bytes: float
    operations: float

    def seconds(self, rates: Rates) -> float:
        """Moving and computing at the same time."""
        return max(
            self.bytes / rates.bytes_per_second, self.operations / rates.operations_per_second
        )


@dataclass(frozen=True)
class Step:
    """A batch of a client: the network's module, its images, a linear head."""

    module: nn.Module
    image_shape: ImageShape
    batch_size: int
    num_classes: int

    def hyperfl(self, hidden_size: int, num_steps: int, num_clients: int) -> Work:
        size = sum(parameter.numel() for parameter in self.module.parameters())
        moved = (2 * hidden_size + 1) * size / num_clients + size * (num_steps - 1) + 4 * size
        computed = 4 * size * hidden_size + 2 * size * (num_steps - 1)
        return Work(
            _BYTES * (moved + self._image_elements),
            computed + self._network_operations(head_passes=2),
        )

    def fedavg(self) -> Work:
        size = sum(parameter.numel() for parameter in self.module.parameters())
        size += self.num_classes * (self._feature_width + 1)
        return Work(
            _BYTES * (6 * size + self._image_elements),
            6 * size + self._network_operations(head_passes=3),
        )

    @property
    def _image_elements(self) -> int:
        return self.batch_size * math.prod(self.image_shape)

    @property
    def _feature_width(self) -> int:
        with torch.no_grad():
            return int(self.module(torch.zeros(1, *self.image_shape)).shape[1])

    def _network_operations(self, head_passes: int) -> int:
        head = self._feature_width * self.num_classes
        layers = _products_of_layers(self.module, self.image_shape)
        of_an_example = 3 * sum(layers) - layers[0] + head_passes * head
        return 2 * self.batch_size * of_an_example


def _products_of_layers(module: nn.Module, image_shape: ImageShape) -> list[int]:
    """Multiplications of an example in each linear or convolutional layer's forward pass."""
    found: list[int] = []

    def count(layer: Any, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append(output[0].numel() * layer.weight[0].numel())

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module(torch.zeros(1, *image_shape))
    for hook in hooks:
        hook.remove()
    return found
