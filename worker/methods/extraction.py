"""A feature extractor as a function: parameters and buffers are arguments."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
        with self.training_mode(noise):
            return self._call(theta, buffers, images)

    def evaluation_mode(self) -> None:
        """Evaluation mode, for calls of :meth:`call`."""
        self._module.eval()

    @contextmanager
    def training_mode(self, noise: torch.Generator) -> Iterator[None]:
        """Training mode, with the global stream seeded from ``noise``, for calls of :meth:`call`.

        Args:
            noise: seeds the global stream, from which dropout draws.
        """
        self._module.train()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=noise)))
            yield

    def call(self, parameters: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """Features (B, width) in the present mode; every parameter and buffer is given by name."""
        features: torch.Tensor = functional_call(self._module, dict(parameters), (images,))
        return features

    def _call(
        self, theta: torch.Tensor, buffers: dict[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        return self.call(self._layout.split(theta) | buffers, images.to(theta.dtype))
