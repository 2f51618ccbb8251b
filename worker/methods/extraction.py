"""A feature extractor as a function: parameters and buffers are arguments."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.func import functional_call

from worker.hypernetwork import ParameterLayout


class FunctionalExtractor:
    """Features of images, by a module whose trainable parameters come flat, as θ (P,)."""

    def __init__(self, template: nn.Module, layout: ParameterLayout, device: torch.device) -> None:
        self._module = copy.deepcopy(template).to(device)
        self._layout = layout
        self._device = device

    def copy_with(self, theta: torch.Tensor, buffers: dict[str, torch.Tensor]) -> nn.Module:
        """The module by itself on the CPU in evaluation mode, with θ (P,) and all its buffers."""
        module = copy.deepcopy(self._module).cpu()
        with torch.no_grad():
            for name, value in self._layout.split(theta).items():
                module.get_parameter(name).copy_(value)
            for name, value in buffers.items():
                module.get_buffer(name).copy_(value)
        return module.eval().requires_grad_(False)

    def features(
        self, theta: torch.Tensor, buffers: dict[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, width) in evaluation mode.

        Args:
            theta: (P,) on the device.
            buffers: every buffer of the module by name, on the device.
            images: (B, C, H, W) on the device.
        """
        self._module.eval()
        return self._call(theta, buffers, images)

    def training_features(
        self,
        theta: torch.Tensor,
        buffers: dict[str, torch.Tensor],
        images: torch.Tensor,
        noise: torch.Generator,
    ) -> torch.Tensor:
        """Features (B, width) in training mode; ``buffers`` are updated in place.

        Args:
            theta: (P,) on the device.
            buffers: every buffer of the module by name, on the device.
            images: (B, C, H, W) on the device.
            noise: seeds the global stream for this call, from which dropout draws.
        """
        self._module.train()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=noise)))
            return self._call(theta, buffers, images)

    def _call(
        self, theta: torch.Tensor, buffers: dict[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        tensors = self._layout.split(theta) | buffers
        features: torch.Tensor = functional_call(self._module, tensors, (images.to(theta.dtype),))
        return features
