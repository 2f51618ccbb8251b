"""What searches over images have in common: valid pixels, total variation, a schedule.

After Geiping et al., "Inverting Gradients", NeurIPS 2020: Adam, a step that falls by ten at 3/8,
5/8 and 7/8 of the way, total variation as the only prior, pixels kept within their range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class PixelRange:
    """The normalisation of the network's images; mean and standard deviation (C,) of 0..1."""

    mean: torch.Tensor
    std: torch.Tensor

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels 0..1 (B, C, H, W) as the network takes them."""
        return (pixels - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels 0..1 (B, C, H, W) of normalised images."""
        return images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbours, over all images (B, C, H, W)."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    return down + across


def descend(
    variables: Sequence[torch.Tensor],
    loss_of: Callable[[], torch.Tensor],
    *,
    iterations: int,
    learning_rate: float,
    signed: bool = False,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Adam on ``variables`` in place; the last loss.

    Args:
        variables: leaves that require gradients.
        loss_of: the loss at their present values.
        iterations: steps.
        learning_rate: of the first.
        signed: use the signs of the gradients alone.
        after_step: such as to keep pixels in their range; called without gradients.
    """
    optimizer = torch.optim.Adam(variables, lr=learning_rate)
    milestones = [iterations * part // 8 for part in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    loss = torch.zeros(())
    for _ in range(iterations):
        loss = loss_of()
        gradients = torch.autograd.grad(loss, list(variables))
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient.sign() if signed else gradient
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            after_step()
    return float(loss.detach())
