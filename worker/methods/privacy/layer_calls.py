"""Calls of linear and convolutional layers, seen from outside while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import conv2d, linear
from torch.overrides import TorchFunctionMode

from worker.methods.privacy.example_gradients import (
    Conv2dSettings,
    ExampleGradients,
    conv2d_bias_gradients,
    conv2d_weight_gradients,
    linear_bias_gradients,
    linear_weight_gradients,
)


@dataclass(frozen=True)
class LayerCall:
    """One application of a layer to one example.

    Attributes:
        weight: the weight's name.
        bias: the bias' name; None if there is none, or it is none of the named tensors.
        convolution: how the weight is applied; None for a linear layer.
        output_shape: of one example.
    """

    weight: str
    bias: str | None
    convolution: Conv2dSettings | None
    output_shape: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors it uses."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def gradients(
        self, inputs: torch.Tensor, output_gradients: torch.Tensor
    ) -> dict[str, ExampleGradients]:
        """Of the named tensors, from (B, …) of all examples."""
        if self.convolution is None:
            weight = linear_weight_gradients(inputs, output_gradients)
            bias = linear_bias_gradients
        else:
            inputs, output_gradients = inputs.squeeze(1), output_gradients.squeeze(1)
            weight = conv2d_weight_gradients(inputs, output_gradients, self.convolution)
            bias = conv2d_bias_gradients
        found = {self.weight: weight}
        if self.bias is not None:
            found[self.bias] = bias(output_gradients)
        return found


class LayerCalls(TorchFunctionMode):
    """While active, hands every layer call with a weight of ``names`` to ``see``.

    In such a call the named tensors are detached, so what still depends on them afterwards does so
    by another way. Tensors are known by identity, whatever module or function passes them on.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        see: Callable[[LayerCall, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        """Begin with nothing seen.

        Args:
            tensors: weights and biases by name.
            see: takes a call, its input and its output, and gives the output to go on with.
        """
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._see = see

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Every call of a torch function comes here."""
        given = kwargs or {}
        if func is linear:
            return self._linear(*args, **given)
        if func is conv2d:
            return self._conv2d(*args, **given)
        return func(*args, **given)

    def _linear(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        name = self._names.get(id(weight))
        if name is None or weight.ndim != 2:
            return linear(input, weight, bias)
        output = linear(input, weight.detach(), self._without_gradient(bias))
        call = LayerCall(name, self._names.get(id(bias)), None, tuple(output.shape))
        return self._see(call, input, output)

    def _conv2d(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        name = self._names.get(id(weight))
        is_one_example = input.ndim == 4 and input.shape[0] == 1
        if name is None or not is_one_example or padding == "same":
            return conv2d(input, weight, bias, stride, padding, dilation, groups)
        padding = 0 if isinstance(padding, str) else padding
        output = conv2d(
            input, weight.detach(), self._without_gradient(bias), stride, padding, dilation, groups
        )
        settings = Conv2dSettings(
            kernel=_pair(weight.shape[2:]),
            stride=_pair(stride),
            padding=_pair(padding),
            dilation=_pair(dilation),
            groups=groups,
        )
        call = LayerCall(name, self._names.get(id(bias)), settings, tuple(output.shape))
        return self._see(call, input, output)

    def _without_gradient(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        return bias.detach() if bias is not None and id(bias) in self._names else bias


def _pair(sizes: int | Sequence[int]) -> tuple[int, int]:
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return (given[0], given[0]) if len(given) == 1 else (given[0], given[1])
