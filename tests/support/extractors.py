"""Small feature extractors of a user, named by import path in tests."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 5


class TinyExtractor(nn.Module):
    """A convolution, batch normalisation, a linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.normalisation = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(12, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.tanh(self.normalisation(self.convolution(images)))
        return torch.tanh(self.linear(self.dropout(maps.flatten(1))))


def tiny() -> tuple[nn.Module, int]:
    return TinyExtractor(), WIDTH


def tiny_with_dropout() -> tuple[nn.Module, int]:
    return TinyExtractor(dropout=0.5), WIDTH


def wrong_width() -> tuple[nn.Module, int]:
    return TinyExtractor(), WIDTH + 1


def returns_a_module_only() -> nn.Module:
    return TinyExtractor()


def fails() -> tuple[nn.Module, int]:
    raise RuntimeError("no weights file")


def entirely_frozen() -> tuple[nn.Module, int]:
    return TinyExtractor().requires_grad_(False), WIDTH


def partly_frozen() -> tuple[nn.Module, int]:
    module = TinyExtractor()
    module.convolution.requires_grad_(False)
    return module, WIDTH


NOT_A_FUNCTION = 3


def tiny_without_normalisation() -> tuple[nn.Module, int]:
    """What examples can be told apart in; its output has TinyExtractor's width."""
    layers = nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, WIDTH), nn.Tanh()
    return nn.Sequential(*layers), WIDTH


def with_normalised_vectors() -> tuple[nn.Module, int]:
    """Its batch normalisation has one value a channel and image."""
    layers = nn.Flatten(), nn.Linear(16, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()
    return nn.Sequential(*layers), WIDTH


def partly_frozen_without_normalisation() -> tuple[nn.Module, int]:
    """Its convolution is frozen."""
    module, width = tiny_without_normalisation()
    next(iter(module.children())).requires_grad_(False)
    return module, width


def with_layer_normalisation() -> tuple[nn.Module, int]:
    """Each image is normalised by itself."""
    module, width = tiny_without_normalisation()
    return nn.Sequential(nn.GroupNorm(1, 1), module, nn.LayerNorm(width)), width


def with_dropout_alone() -> tuple[nn.Module, int]:
    """It has no buffer, and draws in training mode."""
    module, width = tiny_without_normalisation()
    return nn.Sequential(nn.Dropout(0.5), module), width


class _Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, _ = tiny_without_normalisation()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(images)
        return features if float(features.sum()) > 0 else -features


def that_looks_at_values() -> tuple[nn.Module, int]:
    """What it computes depends on what it found."""
    return _Looking(), WIDTH


class _Renormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, _ = tiny_without_normalisation()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.renorm(self.layers(images), 2, 0, 1.0)


def with_an_unusual_operation() -> tuple[nn.Module, int]:
    """``torch.func.vmap`` does its operation one by one, and warns."""
    return _Renormed(), WIDTH


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, _ = tiny_without_normalisation()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(images)
        return features


def that_counts_what_it_sees() -> tuple[nn.Module, int]:
    """It has a buffer, which training mode may change."""
    return _Counting(), WIDTH


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, _ = tiny_without_normalisation()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.scale * self.layers(images)
        return features


def with_a_scalar() -> tuple[nn.Module, int]:
    """One of its parameters has no dimension."""
    return _Scaled(), WIDTH


def one_layer_on_digits() -> tuple[nn.Module, int]:
    """Learns 8x8 images well within seconds."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh()), 32


def one_layer_on_4x4() -> tuple[nn.Module, int]:
    """Learns ``tests.support.tiny_images`` within a few steps."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh()), 32


def entirely_without_scale() -> tuple[nn.Module, int]:
    """Its batch normalisation has nothing that is trained."""
    layers = nn.Flatten(), nn.Linear(16, WIDTH), nn.BatchNorm1d(WIDTH, affine=False), nn.Tanh()
    return nn.Sequential(*layers), WIDTH


def normalised_on_digits() -> tuple[nn.Module, int]:
    """Takes 8x8 images, and has batch normalisation that is trained."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh()), 32


def convolutions_on_digits() -> tuple[nn.Module, int]:
    """Takes 8x8 images, and has no linear layer."""
    layers = nn.Conv2d(1, 12, 3, padding=1), nn.Tanh(), nn.Conv2d(12, 8, 3, stride=2), nn.Tanh()
    return nn.Sequential(*layers, nn.Flatten()), 72
