"""A feature extractor as a function: parameters and buffers are arguments."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import dropout
from torch.nn.modules.batchnorm import _BatchNorm

from worker.data.client_data import Examples
from worker.methods.local_round.inputs import FeatureCache, Inputs
from worker.models.frozen import FrozenBackbone
from worker.models.layout import ParameterLayout
from worker.models.registry import FeatureExtractor

_global_stream = threading.RLock()
"""PyTorch's stream of random numbers is the process's: devices that train at once take turns."""
_EVALUATION_BATCH_SIZE = 256
_CPU_EVALUATION_BATCH_SIZE = 100
"""An evaluation of 600 images by ``cnn-mnist`` takes 47 ms so. In batches of 256 it takes 77 ms:
the memory goes back to the system after each, so that it has 11,500 page faults."""
_EVALUATION_BATCH_ELEMENTS = 1 << 23
"""Most elements of a batch of images in evaluation: 18 of 3×384×384."""


class FunctionalExtractor:
    """Features, by a module whose trainable parameters come flat, as θ (P,), or by name.

    Frozen parameters, and buffers that training mode leaves alone, are the module's own. A module
    with a frozen beginning is given what that makes of the images; :meth:`inputs` has both kinds.

    Attributes:
        evaluation_batch_size: how many images to evaluate at once.
    """

    def __init__(
        self,
        template: FeatureExtractor,
        layout: ParameterLayout,
        device: torch.device,
        *,
        feature_dropout: float = 0.0,
        mixed_precision: bool = False,
        max_cache_bytes: int = 0,
    ) -> None:
        """Copy the template's module to the device.

        Args:
            template: the module, and what its images are like.
            layout: names and shapes of the trainable parameters, all of them.
            device: to compute on.
            feature_dropout: share of the features that training mode leaves out, the others scaled
                up (Srivastava et al., JMLR 2014).
            mixed_precision: compute features in bfloat16 where torch's autocast does; parameters
                and their gradients stay as they are.
            max_cache_bytes: memory for the outputs of a frozen beginning; on CUDA, of a module
                without one, for its images.

        Raises:
            ValueError: the layout's names and shapes are not the trainable parameters'.
        """
        self._module = copy.deepcopy(template.module).to(device).eval()
        self._divided: FrozenBackbone | None = None
        if isinstance(self._module, FrozenBackbone) and self._module.split is not None:
            self._divided = self._module
        self._cache = FeatureCache(max_cache_bytes)
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
        self._layout, self._feature_width = layout, template.feature_width
        self._device = device
        self._feature_dropout = feature_dropout
        self._mixed_precision = mixed_precision
        image_elements = math.prod(template.image_shape)
        is_cpu = device.type == "cpu"
        most = _CPU_EVALUATION_BATCH_SIZE if is_cpu else _EVALUATION_BATCH_SIZE
        self.evaluation_batch_size = max(1, min(most, _EVALUATION_BATCH_ELEMENTS // image_elements))

    def inputs(self, examples: Examples, stop_if_asked: Callable[[], None]) -> Inputs:
        """One split of a client in batches that :meth:`features` and :meth:`call` take."""
        is_kept = self._divided is not None or self._device.type == "cuda"
        begin = self.begin if is_kept else None
        return Inputs(
            examples,
            self._device,
            begin,
            self._cache,
            self.evaluation_batch_size,
            stop_if_asked,
        )

    def begin(self, images: torch.Tensor) -> torch.Tensor:
        """What :meth:`features` and :meth:`call` take (B, ...) for images (B, C, H, W)."""
        if self._divided is None:
            return images
        with self._autocast():
            return self._divided.begin(images.to(next(self._divided.parameters()).dtype))

    def copy_with(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
    ) -> nn.Module:
        """The module by itself, from images to features, on the CPU in evaluation mode.

        Args:
            parameters: all trainable parameters by name.
            buffers: the client's own by name (:func:`own_buffers`).
        """
        module = copy.deepcopy(self._module).cpu()
        with torch.no_grad():
            for name, value in parameters.items():
                module.get_parameter(name).copy_(value)
            for name, value in buffers.items():
                module.get_buffer(name).copy_(value)
        return module.eval().requires_grad_(False)

    def features(
        self, theta: torch.Tensor, buffers: dict[str, torch.Tensor], inputs: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, width) in evaluation mode.

        Args:
            theta: (P,) on the device.
            buffers: the client's own by name (:func:`own_buffers`), on the device.
            inputs: (B, ...) on the device, from :meth:`inputs`.
        """
        self.evaluation_mode()
        return self.call(self._layout.split(theta) | buffers, inputs, theta.dtype)

    def training_features(
        self,
        theta: torch.Tensor,
        buffers: dict[str, torch.Tensor],
        inputs: torch.Tensor,
        noise: np.random.Generator,
    ) -> torch.Tensor:
        """Features (B, width) in training mode; ``buffers`` are updated in place.

        Args:
            theta: (P,) on the device.
            buffers: the client's own by name (:func:`own_buffers`), on the device.
            inputs: (B, ...) on the device, from :meth:`inputs`.
            noise: seeds the global stream for this call, from which dropout draws.
        """
        with self.training_mode(noise):
            return self.call(self._layout.split(theta) | buffers, inputs, theta.dtype)

    def dropout_mask(
        self, num_examples: int, dtype: torch.dtype, noise: np.random.Generator
    ) -> torch.Tensor:
        """What training mode multiplies features (B, width) by: 0, or 1 scaled up.

        A module that draws nothing itself has this draw of ``noise`` in
        :meth:`training_features` too.
        """
        ones = torch.ones(num_examples, self._feature_width, dtype=dtype, device=self._device)
        with self.training_mode(noise):
            return dropout(ones, self._feature_dropout)

    def masked_training_features(
        self, theta: torch.Tensor, inputs: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, width) in training mode, of a module without buffers of the client's own.

        Nothing is drawn, so that ``torch.func.vmap`` takes it.

        Args:
            theta: (P,) on the device.
            inputs: (B, ...) on the device, from :meth:`inputs`.
            mask: (B, width), from :meth:`dropout_mask`.
        """
        if not self._module.training:
            self._module.train()
        return self._whole_features(self._layout.split(theta), inputs, theta.dtype) * mask

    def evaluation_mode(self) -> None:
        """Evaluation mode, for calls of :meth:`call`."""
        if self._module.training:
            self._module.eval()

    @contextmanager
    def training_mode(self, noise: np.random.Generator) -> Iterator[None]:
        """Training mode, with the global stream seeded from ``noise``, for calls of :meth:`call`.

        Args:
            noise: seeds the global stream, from which dropout draws.
        """
        if not self._module.training:
            self._module.train()
        on_gpu = self._device.type == "cuda"
        with _global_stream, torch.random.fork_rng(devices=[self._device] if on_gpu else []):
            seed = int(noise.integers(1 << 62))
            # torch.manual_seed would seed all kinds of devices, and for each that is not in use
            # write down the stack of calls: 0.7 ms of a step's 12.
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(seed)
            yield

    def call(
        self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Features (B, width) in the present mode; every parameter and buffer is given by name.

        In training mode too, what is one value per channel (of an epoch's last image by itself) is
        normalised by a BatchNorm layer's running statistics: it has no variance.

        Args:
            parameters: and buffers by name, on the device.
            inputs: (B, ...) on the device, from :meth:`inputs`.
            dtype: of the parameters, which the features get.
        """
        features = self._whole_features(parameters, inputs, dtype)
        return dropout(features, self._feature_dropout, training=self._module.training)

    def _whole_features(
        self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """As :meth:`call`, of which no feature is left out."""
        options = {}
        if self._divided is None:
            inputs = inputs.to(dtype)
        else:
            # What a frozen beginning gives keeps its precision, as it would in one piece.
            options = {"is_begun": True}
        one_image = _lone_values_allowed(self._module) if len(inputs) == 1 else nullcontext()
        with self._autocast(), one_image:
            features: torch.Tensor = functional_call(
                self._module, dict(parameters), (inputs,), options
            )
        return features.to(dtype)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._mixed_precision
        )


@contextmanager
def _lone_values_allowed(module: nn.Module) -> Iterator[None]:
    """BatchNorm layers that get one value per channel use and leave their running statistics."""
    switched: list[nn.Module] = []

    def switch(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if layer.training and inputs[0].numel() == inputs[0].shape[1]:
            layer.eval()
            switched.append(layer)

    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(switch) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in switched:
            layer.train()


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
