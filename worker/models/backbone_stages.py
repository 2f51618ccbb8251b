"""A backbone cut in two: what is computed once for each image, and what training goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


class InFirstBlock:
    """After the first block's frozen MLP: the residual and the MLP's output, (B, 2, tokens, d)."""

    def begin(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        """What is computed once of images (B, 3, H, W); see the class for its shape."""
        tokens = network.patch_drop(network._pos_embed(network.patch_embed(images)))
        tokens = network.norm_pre(tokens)
        block = network.blocks[0]
        tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
        return torch.stack([tokens, block.mlp.layer(block.norm2(tokens))], dim=1)

    def finish(self, network: Any, begun: torch.Tensor) -> torch.Tensor:
        """Features (B, width) of what :meth:`begin` gave."""
        tokens, hidden = begun.unbind(dim=1)
        block = network.blocks[0]
        tokens = tokens + block.drop_path2(block.ls2(block.mlp.adapter(hidden)))
        for later in network.blocks[1:]:
            tokens = later(tokens)
        features: torch.Tensor = network.forward_head(network.norm(tokens))
        return features


@dataclass(frozen=True)
class AfterFirstStage:
    """After the first stage's frozen layers: maps (B, planes, H', W').

    Attributes:
        activation: name of the stem's.
        head: features of the network and the last stage's maps.
    """

    activation: str
    head: Callable[[Any, torch.Tensor], torch.Tensor]

    def begin(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        """What is computed once of images (B, 3, H, W); see the class for its shape."""
        activation = network.get_submodule(self.activation)
        maps = network.maxpool(activation(network.bn1(network.conv1(images))))
        begun: torch.Tensor = network.layer1.layer(maps)
        return begun

    def finish(self, network: Any, begun: torch.Tensor) -> torch.Tensor:
        """Features (B, width) of what :meth:`begin` gave."""
        maps = network.layer1.adapter(begun)
        for stage in (network.layer2, network.layer3, network.layer4):
            maps = stage(maps)
        return self.head(network, maps)
