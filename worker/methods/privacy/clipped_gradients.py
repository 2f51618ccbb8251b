"""Gradients of a batch that tell little of any one example: clipped each, summed, noised.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from worker.errors import ModelError
from worker.methods.local_round.random_streams import drawn_normally
from worker.methods.privacy.example_gradients import ExampleGradients, StackedGradients
from worker.methods.privacy.layer_calls import LayerCall, LayerCalls

Tensors = dict[str, torch.Tensor]
Function = Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]


class ClippedGradients:
    """Sums of clipped gradients by the tensors of one function, batch after batch.

    Every example goes through the function alone, under ``torch.func.vmap``, so an example's
    gradient is its own whatever a model does. A tensor that is used once, as the weight or bias of
    ``linear`` or ``conv2d``, is not differentiated by: its gradients follow from the layer's input
    and its output's gradient (see ``example_gradients``), and a linear weight's are never formed.
    All others are differentiated by, as if every example had its own. Which are which is found by
    running the first example, and holds for a batch only if its run agrees.
    """

    def __init__(
        self, function: Function, parameters: Mapping[str, torch.Tensor], clip_norm: float
    ) -> None:
        """Begin; nothing is run yet.

        Args:
            function: of ``parameters`` and images (1, C, H, W), to one example's output (1, …).
            parameters: the tensors to differentiate by. What they hold may change between batches.
            clip_norm: largest norm of one example's gradient, over all tensors together.
        """
        self._function, self._parameters, self._clip_norm = function, parameters, clip_norm
        self._calls: tuple[LayerCall, ...] | None = None

    def run(self, images: torch.Tensor) -> ExampleRun:
        """The function of each of ``images`` (B, C, H, W)."""
        if self._calls is None:
            self._calls = self._find_calls(images[:1].clone())
        try:
            return self._run(self._calls, images)
        except _OtherCalls:
            return self._run((), images)

    def _find_calls(self, image: torch.Tensor) -> tuple[LayerCall, ...]:
        """Layer calls whose tensors are used nowhere else."""
        seen: list[LayerCall] = []

        def see(call: LayerCall, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            seen.append(call)
            return output

        leaves = {name: one.detach().requires_grad_() for name, one in self._parameters.items()}
        with LayerCalls(leaves, see):
            output = self._function(leaves, image)
        uses = Counter(name for call in seen for name in call.names)
        uses.update(_found_in(output, leaves))
        return tuple(call for call in seen if all(uses[name] == 1 for name in call.names))

    def _run(self, calls: Sequence[LayerCall], images: torch.Tensor) -> ExampleRun:
        """Differentiable by what ``calls`` put out and by the tensors that are in none of them.

        Raises:
            _OtherCalls: the function makes others with these images.
        """
        count = len(images)
        known = {name for call in calls for name in call.names}
        called = {name: self._parameters[name].detach().requires_grad_() for name in known}
        others = {
            name: one.detach().expand(count, *one.shape).requires_grad_()
            for name, one in self._parameters.items()
            if name not in known
        }
        # The gradient by a layer's output is that by a zero added to it.
        zero = next(iter(self._parameters.values())).new_zeros(())
        shifts = [zero.expand(count, *call.output_shape).requires_grad_() for call in calls]

        def run_one(
            shifts: list[torch.Tensor], tensors: Tensors, image: torch.Tensor
        ) -> tuple[torch.Tensor, list[torch.Tensor]]:
            inputs: list[torch.Tensor] = []

            def see(call: LayerCall, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
                if len(inputs) == len(calls) or call != calls[len(inputs)]:
                    raise _OtherCalls
                # A copy, since models may overwrite what a layer has seen.
                inputs.append(given.detach().clone())
                return output + shifts[len(inputs) - 1]

            with LayerCalls(called, see):
                output = self._function(called | tensors, image.unsqueeze(0))
            if len(inputs) < len(calls):
                raise _OtherCalls
            return output.squeeze(0), inputs

        outputs, inputs = vmap(run_one, randomness="different")(shifts, others, images)
        if _found_in(outputs, called):
            raise _OtherCalls
        seen = list(zip(calls, inputs, shifts, strict=True))
        return ExampleRun(outputs, seen, others, list(self._parameters), self._clip_norm)


class ExampleRun:
    """A function's outputs for a batch, example by example, and the way back from them.

    Attributes:
        outputs: (B, …), differentiable.
    """

    def __init__(
        self,
        outputs: torch.Tensor,
        seen: Sequence[tuple[LayerCall, torch.Tensor, torch.Tensor]],
        others: Mapping[str, torch.Tensor],
        names: Sequence[str],
        clip_norm: float,
    ) -> None:
        """Keep what the way back needs.

        Args:
            outputs: as they are.
            seen: layer calls, each with its inputs (B, …) and the zeros added to its outputs.
            others: the tensors that no layer call has, (B, …), one for each example.
            names: of all tensors.
            clip_norm: largest norm of one example's gradient.
        """
        self.outputs = outputs
        self._seen, self._others, self._names = seen, others, names
        self._clip_norm = clip_norm

    def clipped_sum(self, losses: torch.Tensor) -> Tensors:
        """Σ over examples of gᵢ·min(1, clip_norm / ‖gᵢ‖), of each tensor; once for a run.

        An example whose gradient is not finite counts as zeros.

        Args:
            losses: (B,), each of that example's row of ``outputs`` alone.
        """
        leaves = [*(shift for _, _, shift in self._seen), *self._others.values()]
        found = list(torch.autograd.grad(losses.sum(), leaves, materialize_grads=True))
        inputs = [one for _, one, _ in self._seen]
        gradients, norms = self._gradients(found, inputs)
        counts = norms.isfinite()
        if not bool(counts.all()):
            # No factor bounds what they make of the sum: a number that is none times 0 is none.
            found, inputs = ([_zeroed(one, ~counts) for one in some] for some in (found, inputs))
            gradients, norms = self._gradients(found, inputs)
        factors = (self._clip_norm / norms).clamp(max=1.0)
        return {name: gradients[name].weighted_sum(factors) for name in self._names}

    def _gradients(
        self, found: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> tuple[dict[str, ExampleGradients], torch.Tensor]:
        """Each tensor's gradients and the examples' norms (B,), over all tensors together.

        ``found`` are the gradients by the layers' outputs, then by all other tensors, (B, …) each.
        """
        gradients: dict[str, ExampleGradients] = {
            name: StackedGradients(one)
            for name, one in zip(self._others, found[len(self._seen) :], strict=True)
        }
        for (call, *_), given, by_output in zip(self._seen, inputs, found, strict=False):
            gradients |= call.gradients(given, by_output)
        norms = torch.stack([one.squared_norms() for one in gradients.values()]).sum(dim=0).sqrt()
        return gradients, norms


def _zeroed(rows: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
    """``rows`` (B, …) with zeros for some of the examples (B,)."""
    return rows.masked_fill(examples.view(-1, *(1,) * (rows.ndim - 1)), 0.0)


class _OtherCalls(Exception):
    """The function does not make the layer calls that were found at first."""


def _found_in(outputs: torch.Tensor, leaves: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the leaves that the outputs depend on."""
    if not outputs.requires_grad or not leaves:
        return []
    gradients = torch.autograd.grad(
        outputs.sum(), list(leaves.values()), allow_unused=True, retain_graph=True
    )
    return [name for name, one in zip(leaves, gradients, strict=True) if one is not None]


def add_noise(
    sums: Mapping[str, torch.Tensor], standard_deviation: float, generator: np.random.Generator
) -> Tensors:
    """Each element plus its own N(0, standard_deviation²), drawn from the generator."""
    return {
        name: one + standard_deviation * drawn_normally(tuple(one.shape), generator).to(one)
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
