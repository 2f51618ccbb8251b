"""What becomes of stored examples before the model takes them."""

from __future__ import annotations

from typing import Protocol

import torch

from worker.data.images import ImageShape
from worker.data.resizing import enlarge


class Scaling(Protocol):
    """From stored examples to the model's inputs, the same for each example."""

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (C,) of the model's channels, or (F,) of the features."""

    def apply(self, stored: torch.Tensor) -> torch.Tensor:
        """float32 inputs (B, ...) of stored examples (B, ...), on their device."""


class PixelScaling:
    """Of images: pixels normalised, at the model's shape."""

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], image_shape: ImageShape
    ) -> None:
        """Prepare the arithmetic.

        Args:
            mean: per channel of the stored images, of pixels scaled to 0..1; three where these are
                grey make a grey image three channels.
            std: as many, of pixels scaled to 0..1.
            image_shape: (C, H, W) of the inputs.
        """
        self._image_shape = image_shape
        # (x / 255 - mean) / std as one product and one difference.
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        std_column = self._std.view(-1, 1, 1)
        self._scale = 1 / (255 * std_column)
        self._shift = self._mean.view(-1, 1, 1) / std_column

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Scaling`; of pixels scaled to 0..1."""
        channels = self._image_shape[0]
        return (self._mean.expand(channels).clone(), self._std.expand(channels).clone())

    def apply(self, stored: torch.Tensor) -> torch.Tensor:
        """See :class:`Scaling`; uint8 (B, C, H, W) to float32 of ``image_shape``."""
        pixels = stored.float()
        if pixels.shape[1] < len(self._scale):
            pixels = pixels.repeat(1, len(self._scale), 1, 1)
        pixels.mul_(self._scale.to(stored.device)).sub_(self._shift.to(stored.device))
        return enlarge(pixels, self._image_shape)
