"""A feature extractor as a function: parameters and buffers are arguments."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call

from worker.hypernetwork import ParameterLayout
from worker.models.registry import FeatureExtractor

_EVALUATION_BATCH_SIZE = 256
_EVALUATION_BATCH_ELEMENTS = 1 << 23
"""Most elements of a batch of images in evaluation: 18 of 3×384×384."""


class FunctionalExtractor:
    """Features of images, by a module whose trainable parameters come flat, as θ (P,).

    Frozen parameters, and buffers that training mode leaves alone, are the module's own.

    Attributes:
        evaluation_batch_size: how many images to evaluate at once.
    """

    def __init__(
        self,
        template: FeatureExtractor,
        layout: ParameterLayout,
        device: torch.device,
        *,
        mixed_precision: bool = False,
    ) -> None:
        """Copy the template's module to the device.

        Args:
            template: the module, and what its images are like.
            layout: names and shapes of the trainable parameters, all of them.
            device: to compute on.
            mixed_precision: compute features in bfloat16 where torch's autocast does; parameters
                and their gradients stay as they are.

        Raises:
            ValueError: the layout's names and shapes are not the trainable parameters'.
        """
        self._module = copy.deepcopy(template.module).to(device)
        expected = {
            name: tuple(parameter.shape)
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
        }
        generated = {tensor.name: tensor.shape for tensor in layout.tensors}
        if generated != expected:
            name = min(name for name, _ in generated.items() ^ expected.items())
            raise ValueError(
                f"generated {name} with shape {generated.get(name)}, "
                f"but the extractor's has {expected.get(name)}"
            )
        self._layout = layout
        self._device = device
        self._mixed_precision = mixed_precision
        image_elements = math.prod(template.image_shape)
        self.evaluation_batch_size = max(
            1, min(_EVALUATION_BATCH_SIZE, _EVALUATION_BATCH_ELEMENTS // image_elements)
        )

    def copy_with(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
    ) -> nn.Module:
        """The module by itself on the CPU in evaluation mode, with these tensors by name."""
        module = copy.deepcopy(self._module).cpu()
        with torch.no_grad():
            for name, value in parameters.items():
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
            buffers: the client's own by name (:func:`own_buffers`), on the device.
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
            buffers: the client's own by name (:func:`own_buffers`), on the device.
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
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed_precision):
            features: torch.Tensor = functional_call(self._module, dict(parameters), (images,))
        return features.to(images.dtype)

    def _call(
        self, theta: torch.Tensor, buffers: dict[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        return self.call(self._layout.split(theta) | buffers, images.to(theta.dtype))


def own_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the buffers that training mode may change: each client has its own of these.

    Layers that ``module.train()`` leaves in evaluation mode, as frozen ones should be, keep theirs.
    """
    was_training = module.training
    module.train()
    changing = {
        id(buffer)
        for layer in module.modules()
        if layer.training
        for buffer in layer.buffers(recurse=False)
    }
    module.train(was_training)
    return {
        name: buffer.clone() for name, buffer in module.named_buffers() if id(buffer) in changing
    }
