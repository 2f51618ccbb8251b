"""The network under attack, as a function of its parameters: everybody has its code."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from shared.federation.plans import TrainingPlan
from worker.methods.local_round.head import Head, head_shapes, initial_head
from worker.methods.local_round.random_streams import client_generator
from worker.models.allowed_imports import AllowedImports
from worker.models.registry import build_feature_extractor

Tensors = dict[str, torch.Tensor]
Float64 = npt.NDArray[np.float64]


class Network:
    """A feature extractor in evaluation mode, from images to features.

    What a client keeps to itself, the buffers, is as it is at the start.

    Attributes:
        image_shape: channels, height, width.
        feature_width: of an image's features.
        linear: name of the first linear layer whose weight and bias are trained; None without one.
    """

    def __init__(self, plan: TrainingPlan, allowed_imports: AllowedImports) -> None:
        """Build the plan's network.

        Raises:
            ModelError: it is a frozen backbone, which has no attack here, or cannot be built.
        """
        extractor = build_feature_extractor(plan.model, plan.image_shape, allowed_imports)
        self._module = copy.deepcopy(extractor.module).eval()
        self.image_shape = extractor.image_shape
        self.num_classes = plan.num_classes
        self.feature_width = extractor.feature_width
        self._head_shapes = head_shapes(
            plan.num_classes, extractor.feature_width, extractor.private_hidden_width
        )
        self.linear = next(
            (
                name
                for name, layer in self._module.named_modules()
                if isinstance(layer, nn.Linear)
                and layer.bias is not None
                and layer.weight.requires_grad
                and layer.bias.requires_grad
            ),
            None,
        )

    def drawn_head(self, seed: int) -> Tensors:
        """A head as a client draws its first, of somebody who does not know the client's."""
        return initial_head(self._head_shapes, client_generator(seed, "attack"))

    def features(
        self, parameters: Mapping[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        """Features (B, width) of normalised images (B, C, H, W)."""
        features: torch.Tensor = functional_call(self._module, dict(parameters), (images,))
        return features

    def linear_inputs(
        self, parameters: Mapping[str, torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        """What the first linear layer is given (B, inputs) for normalised images (B, C, H, W).

        Raises:
            ValueError: there is no such layer.
        """
        if self.linear is None:
            raise ValueError("the network has no linear layer that is trained")
        seen: list[torch.Tensor] = []

        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen.append(inputs[0])

        handle = self._module.get_submodule(self.linear).register_forward_pre_hook(look)
        try:
            self.features(parameters, images)
        finally:
            handle.remove()
        return seen[0].flatten(1)

    def linear_gradient(self, gradient: Mapping[str, torch.Tensor]) -> Float64:
        """That layer's weight and bias (outputs, inputs + 1) in a gradient of the parameters.

        Raises:
            ValueError: there is no such layer.
        """
        if self.linear is None:
            raise ValueError("the network has no linear layer that is trained")
        prefix = f"{self.linear}." if self.linear else ""
        weight, bias = gradient[f"{prefix}weight"], gradient[f"{prefix}bias"]
        lifted: Float64 = torch.cat([weight, bias[:, None]], dim=1).double().numpy()
        return lifted

    def loss(
        self,
        parameters: Mapping[str, torch.Tensor],
        head: Mapping[str, torch.Tensor],
        images: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor | float = 1.0,
    ) -> torch.Tensor:
        """Mean cross-entropy; labels (B,) are classes, or probabilities (B, classes).

        ``mask`` (B, width) multiplies the features, as dropout does.
        """
        features = mask * self.features(parameters, images)
        return cross_entropy(Head(head).logits(features), labels)
