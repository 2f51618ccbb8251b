"""Gradients of a batch that tell little of any one example: clipped each, summed, noised.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from worker.methods.head import Batch
from worker.models.errors import ModelError

Tensors = dict[str, torch.Tensor]
LossOfBatch = Callable[[Mapping[str, torch.Tensor], Batch], torch.Tensor]


def clipped_gradient_sum(
    loss: LossOfBatch, parameters: Mapping[str, torch.Tensor], batch: Batch, clip_norm: float
) -> Tensors:
    """Σ over examples of gᵢ·min(1, clip_norm / ‖gᵢ‖), with ‖gᵢ‖ over all tensors together.

    Args:
        loss: of ``parameters`` and a batch; called once, on batches of one, under ``vmap``.
        parameters: the tensors to differentiate by.
        batch: images (B, C, H, W) and labels (B,).
        clip_norm: largest norm of one example's gradient.
    """

    def loss_of_one(tensors: Tensors, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return loss(tensors, (image.unsqueeze(0), label.unsqueeze(0)))

    per_example = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")
    gradients: Tensors = per_example(dict(parameters), *batch)
    norms = torch.stack(
        [torch.linalg.vector_norm(one.flatten(1), dim=1) for one in gradients.values()]
    ).norm(dim=0)
    factors = (clip_norm / norms).clamp(max=1.0)
    return {name: torch.tensordot(factors, one, dims=1) for name, one in gradients.items()}


def add_noise(
    sums: Mapping[str, torch.Tensor], standard_deviation: float, generator: torch.Generator
) -> Tensors:
    """Each element plus its own N(0, standard_deviation²), drawn from the CPU generator."""
    return {
        name: one + standard_deviation * torch.randn(one.shape, generator=generator).to(one)
        for name, one in sums.items()
    }


def check_examples_are_separate(module: nn.Module) -> None:
    """Raises ModelError if a layer mixes the examples of a batch: no one's gradient exists then."""
    for name, layer in module.named_modules():
        mixes = isinstance(layer, _BatchNorm)
        if mixes or (isinstance(layer, _NormBase) and layer.track_running_stats):
            raise ModelError(
                f"layer {name} ({type(layer).__name__}) mixes the examples of a batch, so one "
                "example's gradient cannot be clipped; use GroupNorm or LayerNorm"
            )
