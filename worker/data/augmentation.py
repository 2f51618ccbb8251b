"""Random crop and horizontal flip of a whole batch at once."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import pad

CROP_PADDING_PIXELS = 4


def random_crop_and_flip(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Pad each image with 4 black pixels, crop it back at a random place, flip it or not.

    The augmentation of the paper's CIFAR-10 and CINIC-10 runs. Each image gets its own crop and
    its own toss for the flip (one half).

    Args:
        images: uint8 on the CPU, (B, C, H, W).
        generator: the same state gives the same result.

    Returns:
        uint8, (B, C, H, W), a new tensor.
    """
    count, channels, height, width = images.shape
    offsets = torch.from_numpy(generator.integers(2 * CROP_PADDING_PIXELS + 1, size=(2, count, 1)))
    flipped = torch.from_numpy(generator.integers(2, size=(count, 1), dtype=np.bool_))
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    columns = torch.where(flipped, columns.flip(1), columns)
    padded = pad(images, (CROP_PADDING_PIXELS,) * 4)
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
