"""Bringing images to the shape a model takes.

Images are kept at the smaller of two shapes, their own and the model's: shrinking is done once at
load, enlarging when a batch is taken. CIFAR-10 enlarged at load for a 384x384 vision transformer
would take 26 GB instead of 184 MB.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from worker.data.images import ImageShape

# Bounds the float copies made on the way; the result does not depend on it.
_CHUNK_IMAGES = 4096


def shrink(images: torch.Tensor, image_shape: ImageShape) -> torch.Tensor:
    """Reduce channels and size to ``image_shape`` where that makes the images smaller.

    RGB becomes grey by ITU-R BT.601 luma; sizes are reduced bilinearly with antialiasing.

    Args:
        images: uint8, (N, C, H, W), C 1 or 3.
        image_shape: (C, H, W) of the model's input, C 1 or 3.

    Returns:
        uint8, (N, min of both C, H', W'), the same tensor when there is nothing to shrink.
    """
    channels, height, width = image_shape
    if images.shape[1] > channels:
        images = torch.cat([_to_grey(chunk) for chunk in torch.split(images, _CHUNK_IMAGES)])
    if height * width < images.shape[2] * images.shape[3]:
        images = torch.cat(
            [
                _resize(chunk.float(), height, width).round_().clamp_(0, 255).to(torch.uint8)
                for chunk in torch.split(images, _CHUNK_IMAGES)
            ]
        )
    return images


def enlarge(pixels: torch.Tensor, image_shape: ImageShape) -> torch.Tensor:
    """Bring a batch to exactly ``image_shape``: bilinear size, grey repeated to three channels.

    Args:
        pixels: float32, (B, C, H, W), as left by ``shrink``.
        image_shape: (C, H, W) of the model's input.
    """
    channels, height, width = image_shape
    if pixels.shape[2:] != (height, width):
        pixels = _resize(pixels, height, width)
    if pixels.shape[1] != channels:
        pixels = pixels.repeat(1, channels, 1, 1)
    return pixels


def _to_grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.to(torch.int32).unbind(dim=1)
    luma = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return luma.to(torch.uint8).unsqueeze(1)


def _resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return interpolate(
        pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
