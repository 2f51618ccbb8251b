"""A multilayer perceptron: ``mlp:WIDTHxDEPTH``, for rows of features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import leaky_relu


class MultilayerPerceptron(nn.Module):
    """``depth`` linear layers of ``width`` outputs, each with leaky ReLU.

    Shapes: float (B, ...) with ``num_inputs`` values each to features float (B, width).
    """

    def __init__(self, num_inputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [num_inputs] + [width] * (depth - 1)
        self.layers = nn.ModuleList([nn.Linear(size, width) for size in sizes])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Features (B, width) of inputs (B, ...)."""
        features = rows.flatten(1)
        for layer in self.layers:
            features = leaky_relu(layer(features))
        return features
