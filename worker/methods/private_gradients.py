"""Gradients of a batch that tell little of any one example: clipped each, summed, noised.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from worker.methods.example_gradients import ExampleGradients, StackedGradients
from worker.methods.head import Batch
from worker.methods.layer_calls import LayerCall, LayerCalls
from worker.models.errors import ModelError

Tensors = dict[str, torch.Tensor]
LossOfBatch = Callable[[Mapping[str, torch.Tensor], Batch], torch.Tensor]


class ClippedGradients:
    """Sums of clipped gradients of one loss by the same tensors, batch after batch.

    Every example goes through the loss alone, under ``torch.func.vmap``, so an example's gradient
    is its own whatever the model does. A tensor that the model uses once, as the weight or bias of
    ``linear`` or ``conv2d``, is not differentiated by: its gradients follow from the layer's input
    and output gradient (:mod:`worker.methods.example_gradients`), and those of a linear layer are
    never formed. All other tensors' gradients are. Which are which is found by running the first
    example, and holds for a batch only if its own run agrees.
    """

    def __init__(
        self, loss: LossOfBatch, parameters: Mapping[str, torch.Tensor], clip_norm: float
    ) -> None:
        """Begin; nothing is run yet.

        Args:
            loss: of ``parameters`` and a batch; called on batches of one, under ``vmap``.
            parameters: the tensors to differentiate by. What they hold may change between batches.
            clip_norm: largest norm of one example's gradient, over all tensors together.
        """
        self._loss, self._parameters, self._clip_norm = loss, parameters, clip_norm
        self._calls: tuple[LayerCall, ...] | None = None

    def sum(self, batch: Batch) -> Tensors:
        """Σ over examples of gᵢ·min(1, clip_norm / ‖gᵢ‖), for images (B, C, H, W), labels (B,)."""
        images, labels = batch
        if self._calls is None:
            self._calls = self._find_calls((images[:1].clone(), labels[:1]))
        try:
            gradients = self._gradients(self._calls, batch)
        except _OtherCalls:
            gradients = self._gradients((), batch)
        norms = torch.stack([one.squared_norms() for one in gradients.values()]).sum(dim=0).sqrt()
        factors = (self._clip_norm / norms).clamp(max=1.0)
        return {name: gradients[name].weighted_sum(factors) for name in self._parameters}

    def _find_calls(self, example: Batch) -> tuple[LayerCall, ...]:
        """Layer calls whose tensors are used nowhere else."""
        seen: list[LayerCall] = []

        def see(call: LayerCall, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            seen.append(call)
            return output

        leaves = {name: one.detach().requires_grad_() for name, one in self._parameters.items()}
        with LayerCalls(leaves, see):
            loss = self._loss(leaves, example)
        uses = Counter(name for call in seen for name in call.names)
        if loss.requires_grad:
            others = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            uses.update(name for name, one in zip(leaves, others, strict=True) if one is not None)
        return tuple(call for call in seen if all(uses[name] == 1 for name in call.names))

    def _gradients(self, calls: Sequence[LayerCall], batch: Batch) -> dict[str, ExampleGradients]:
        """Of every tensor, by way of ``calls`` where they have it.

        Raises:
            _OtherCalls: the model makes others with this batch.
        """
        known = {name for call in calls for name in call.names}
        # They require a gradient, and a call detaches them: a loss that still does uses one twice.
        called = {name: self._parameters[name].detach().requires_grad_() for name in known}
        rest = {name: one for name, one in self._parameters.items() if name not in known}

        def loss_of_one(
            shifts: list[torch.Tensor], tensors: Tensors, image: torch.Tensor, label: torch.Tensor
        ) -> tuple[torch.Tensor, tuple[torch.Tensor, list[torch.Tensor]]]:
            inputs: list[torch.Tensor] = []

            def see(call: LayerCall, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
                if len(inputs) == len(calls) or call != calls[len(inputs)]:
                    raise _OtherCalls
                # A copy, since models may overwrite what a layer has seen.
                inputs.append(given.detach().clone())
                return output + shifts[len(inputs) - 1]

            with LayerCalls(called, see):
                loss = self._loss(called | tensors, (image.unsqueeze(0), label.unsqueeze(0)))
            if len(inputs) < len(calls):
                raise _OtherCalls
            return loss, (loss, inputs)

        # The gradient by an output is that by a zero added to it.
        example = next(iter(self._parameters.values()))
        shifts = [example.new_zeros(call.output_shape) for call in calls]
        per_example = vmap(
            grad(loss_of_one, argnums=(0, 1), has_aux=True),
            in_dims=(None, None, 0, 0),
            randomness="different",
        )
        (by_outputs, by_tensors), (losses, inputs) = per_example(shifts, rest, *batch)
        if losses.requires_grad:
            raise _OtherCalls
        found: dict[str, ExampleGradients] = {
            name: StackedGradients(one) for name, one in by_tensors.items()
        }
        for call, given, by_output in zip(calls, inputs, by_outputs, strict=True):
            found |= call.gradients(given, by_output)
        return found


class _OtherCalls(Exception):
    """The model does not make the layer calls that were found at first."""


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
