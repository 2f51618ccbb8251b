"""A frozen network in two parts: a beginning that no training changes, and the rest.

The beginning ends before the first adapter; without adapters it is the whole network. Its output
depends only on the image, so it need be computed only once for each.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import nn

from worker.models.adapters import BottleneckAdapter, ConvolutionalAdapter


class Split(Protocol):
    """Where a network is divided: ``finish(begin(images))`` are its features."""

    def begin(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """What the rest of ``network`` takes (B, ...), of images (B, C, H, W)."""

    def finish(self, network: nn.Module, begun: torch.Tensor) -> torch.Tensor:
        """Features (B, width) of what :meth:`begin` gave."""


class BeforeNothing:
    """The whole network is the beginning: nothing in it is trained."""

    def begin(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """See :class:`Split`."""
        features: torch.Tensor = network(images)
        return features

    def finish(self, network: nn.Module, begun: torch.Tensor) -> torch.Tensor:
        """See :class:`Split`."""
        del network
        return begun


class FrozenBackbone(nn.Module):
    """A frozen network, perhaps with adapters in it: in training mode, only they are.

    Attributes:
        network: the network.
        split: where it is divided; None where that is not known, so that all of it is the rest.
    """

    def __init__(self, network: nn.Module, split: Split | None) -> None:
        super().__init__()
        self.network = network
        self.split = split

    def train(self, mode: bool = True) -> Self:
        """Sets the adapters' mode; what is frozen stays in evaluation mode."""
        super().train(False)
        self.training = mode
        for module in self.modules():
            if isinstance(module, BottleneckAdapter | ConvolutionalAdapter):
                module.train(mode)
        return self

    def begin(self, images: torch.Tensor) -> torch.Tensor:
        """The frozen beginning's output (B, ...) of images (B, 3, H, W), without a gradient."""
        if self.split is None:
            return images
        with torch.no_grad():
            return self.split.begin(self.network, images)

    def forward(self, images: torch.Tensor, *, is_begun: bool = False) -> torch.Tensor:
        """Features (B, width) of images (B, 3, H, W), or of what :meth:`begin` made of them."""
        if self.split is None:
            features: torch.Tensor = self.network(images)
            return features
        begun = images if is_begun else self.split.begin(self.network, images)
        return self.split.finish(self.network, begun)
