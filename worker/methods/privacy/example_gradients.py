"""One gradient for each example of a batch, kept no larger than its use needs.

Of the gradients only two things are asked: their norms, and a weighted sum. Both follow from a
layer's input and its output's gradient (Goodfellow, "Efficient per-example gradient computations",
arXiv 1510.01799; Bu et al., "Differentially private optimization on large model at small cost",
ICML 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import pad

_PATCH_ELEMENTS = 1 << 22
"""Most elements of the patches that are copied at once."""


class ExampleGradients(Protocol):
    """The gradients of one tensor, one for each of B examples."""

    def squared_norms(self) -> torch.Tensor:
        """(B,)."""

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Σ factorsᵢ·gᵢ, of the tensor's shape, for ``factors`` (B,)."""


@dataclass(frozen=True, eq=False)
class StackedGradients:
    """``gradients`` (B, …) as they are."""

    gradients: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """See :class:`ExampleGradients`."""
        rows = self.gradients.flatten(1)
        return _squared_lengths(rows)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """See :class:`ExampleGradients`."""
        total: torch.Tensor = torch.tensordot(factors, self.gradients, dims=1)
        return total


@dataclass(frozen=True, eq=False)
class OuterProducts:
    """gᵢ = leftᵢ·rightᵢᵀ, for ``left`` (B, rows) and ``right`` (B, columns)."""

    left: torch.Tensor
    right: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """See :class:`ExampleGradients`."""
        return _squared_lengths(self.left) * _squared_lengths(self.right)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """See :class:`ExampleGradients`."""
        total: torch.Tensor = (factors.unsqueeze(1) * self.left).T @ self.right
        return total


def linear_weight_gradients(
    inputs: torch.Tensor, output_gradients: torch.Tensor
) -> ExampleGradients:
    """Of the weight (out, in) of a linear layer that is applied to the last dimension.

    Args:
        inputs: (B, …, in).
        output_gradients: (B, …, out), the gradients of each example's loss.
    """
    rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    gradients = output_gradients.reshape(len(inputs), -1, output_gradients.shape[-1])
    if rows.shape[1] == 1:
        return OuterProducts(gradients.squeeze(1), rows.squeeze(1))
    return StackedGradients(gradients.mT @ rows)


def linear_bias_gradients(output_gradients: torch.Tensor) -> ExampleGradients:
    """Of the bias (out,), from ``output_gradients`` (B, …, out)."""
    rows = output_gradients.reshape(len(output_gradients), -1, output_gradients.shape[-1])
    return StackedGradients(rows.sum(dim=1))


@dataclass(frozen=True)
class Conv2dSettings:
    """How a convolution of two dimensions is applied; each pair is (rows, columns).

    Attributes:
        kernel: the kernel's size.
        stride: between two outputs.
        padding: zeros on both sides.
        dilation: between two elements of the kernel.
        groups: of channels that see each other.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def conv2d_weight_gradients(
    inputs: torch.Tensor, output_gradients: torch.Tensor, settings: Conv2dSettings
) -> ExampleGradients:
    """Of the weight (out, C / groups, *kernel) of a convolution.

    Each is the product of the output's gradient with the patches of the input that the kernel is
    laid on.

    Args:
        inputs: (B, C, H, W).
        output_gradients: (B, out, H', W'), the gradients of each example's loss.
        settings: how the weight is applied.
    """
    groups, (above, beside) = settings.groups, settings.padding
    (batch, channels), positions = inputs.shape[:2], output_gradients.shape[2:]
    padded = pad(inputs, (beside, beside, above, above)).contiguous()
    of_example, of_channel, of_row, of_column = padded.stride()
    # As torch.nn.functional.unfold gives them, which takes twice as long.
    patches = padded.as_strided(
        (batch, groups, channels // groups, *settings.kernel, *positions),
        (
            of_example,
            of_channel * (channels // groups),
            of_channel,
            of_row * settings.dilation[0],
            of_column * settings.dilation[1],
            of_row * settings.stride[0],
            of_column * settings.stride[1],
        ),
    )
    gradients = output_gradients.reshape(batch, groups, -1, positions.numel())
    examples_at_once = max(1, _PATCH_ELEMENTS * batch // patches.numel())
    products = [
        some_gradients @ some_patches.flatten(5).flatten(2, 4).mT
        for some_gradients, some_patches in zip(
            torch.split(gradients, examples_at_once),
            torch.split(patches, examples_at_once),
            strict=True,
        )
    ]
    stacked = torch.cat(products)
    return StackedGradients(stacked.reshape(batch, -1, channels // groups, *settings.kernel))


def conv2d_bias_gradients(output_gradients: torch.Tensor) -> ExampleGradients:
    """Of the bias (out,), from ``output_gradients`` (B, out, H', W')."""
    return StackedGradients(output_gradients.sum(dim=(2, 3)))


def _squared_lengths(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(dim=1)
