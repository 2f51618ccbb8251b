"""The two convolutional feature extractors of the HyperFL paper (arXiv 2412.07187)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import leaky_relu, linear, max_pool2d

FEATURE_WIDTH = 128


class ConvolutionalExtractor(nn.Module):
    """Convolutions, each with leaky ReLU and 2x2 max pooling, then a linear layer with leaky ReLU.

    Args:
        convolutions: the convolutional layers in order.
        flat_features: elements of the last convolution's pooled output.

    Shapes: images float (B, C, H, W) to features float (B, 128).
    """

    def __init__(self, convolutions: list[nn.Conv2d], flat_features: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.linear = nn.Linear(flat_features, FEATURE_WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, 128) of images (B, C, H, W)."""
        maps = images
        for convolution in self.convolutions:
            # On the CPU, pooling is vectorised for channels-last alone: a whole training step
            # takes 3.8 ms instead of 6.2 (batch 50, cnn-mnist, 2 cores). The permutations are
            # contiguous(memory_format=torch.channels_last), which torch.func.vmap does not know.
            maps = convolution(maps).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            # Leaky ReLU is increasing, so pooling first selects the same pixels, and leaves a
            # quarter of them to activate.
            maps = leaky_relu(max_pool2d(maps, 2))
        features: torch.Tensor = leaky_relu(self.linear(maps.flatten(1)))
        return features


class OneChannelConvolution(nn.Conv2d):
    """A convolution of images with one channel, without padding or stride.

    On the CPU, oneDNN is slow at the gradient of a weight with one input channel. As a product of
    matrices the whole training step of ``cnn-mnist`` takes 11.2 ms instead of 12.5 (batch 50, one
    thread). Where no gradient is taken the product would be slower. Methods that want the gradient
    of each image by itself know the convolution's.
    """

    def __init__(self, out_channels: int, kernel_size: int) -> None:
        super().__init__(1, out_channels, kernel_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, out_channels, H', W') of images (B, 1, H, W)."""
        is_trained = self.training and torch.is_grad_enabled()
        if not (is_trained and images.is_cpu and len(images) > 1):
            return super().forward(images)
        height, width = self.kernel_size
        windows = images[:, 0].unfold(1, height, 1).unfold(2, width, 1).flatten(3)
        return linear(windows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def cnn_mnist() -> ConvolutionalExtractor:
    """``cnn-mnist`` for images (1, 28, 28): 115,776 parameters."""
    return ConvolutionalExtractor(
        [OneChannelConvolution(16, 5), nn.Conv2d(16, 32, 5, padding=1)], 800
    )


def cnn_cifar() -> ConvolutionalExtractor:
    """``cnn-cifar`` for images (3, 32, 32): 106,400 parameters."""
    return ConvolutionalExtractor(
        [
            nn.Conv2d(3, 16, 5),
            nn.Conv2d(16, 32, 5, padding=1),
            nn.Conv2d(32, 64, 3, padding=1),
        ],
        576,
    )
