"""Adapters of HyperFL-LPM (arXiv 2412.07187): the only trainable part of a frozen backbone.

They start as near to changing nothing as they can, so that training starts from the backbone's own
features (Houlsby et al., ICML 2019, section 3.6); the paper leaves the start open.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import relu

_BOTTLENECK = 16


class BottleneckAdapter(nn.Module):
    """z + LayerNorm(up(relu(down(z)))), z (…, d), with d/16 values in between; starts as z."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, max(1, width // _BOTTLENECK))
        self.up = nn.Linear(max(1, width // _BOTTLENECK), width)
        self.normalisation = nn.LayerNorm(width)
        nn.init.zeros_(self.normalisation.weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (…, d) of tokens (…, d)."""
        change: torch.Tensor = self.normalisation(self.up(relu(self.down(tokens))))
        return tokens + change


class ConvolutionalAdapter(nn.Module):
    """BN(x + conv1×1(BN(x))), x (B, planes, H, W), without bias in between; starts as BN(x)."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.inner_normalisation = nn.BatchNorm2d(planes)
        self.convolution = nn.Conv2d(planes, planes, 1, bias=False)
        nn.init.zeros_(self.convolution.weight)
        self.outer_normalisation = nn.BatchNorm2d(planes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (B, planes, H, W) of maps of the same shape."""
        change = self.convolution(self.inner_normalisation(maps))
        adapted: torch.Tensor = self.outer_normalisation(maps + change)
        return adapted


def adapt_blocks(network: nn.Module, width: int) -> None:
    """Puts an adapter after the MLP of each of a vision transformer's blocks."""
    for block in network.get_submodule("blocks").children():
        mlp = block.get_submodule("mlp")
        block.add_module("mlp", with_adapter(mlp, BottleneckAdapter(width)))


def adapt_stages(network: nn.Module, planes: Sequence[int]) -> None:
    """Puts an adapter after each of a ResNet's stages, which give so many channels."""
    for number, channels in enumerate(planes, start=1):
        stage = network.get_submodule(f"layer{number}")
        network.add_module(f"layer{number}", with_adapter(stage, ConvolutionalAdapter(channels)))


def with_adapter(layer: nn.Module, adapter: nn.Module) -> nn.Module:
    """A module that applies ``layer``, then ``adapter``."""
    return nn.Sequential(OrderedDict(layer=layer, adapter=adapter))
