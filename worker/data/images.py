"""Labelled images in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

ImageShape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a data set, decoded.

    Attributes:
        images: uint8, (N, C, H, W), pixels 0..255.
        labels: int64, (N,), each in 0..len(class_names)-1.
        class_names: one name per label.
        left_out: number of files that were passed over, by what they are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with the statistics its pixels are normalised by.

    Attributes:
        name: as in ``DataSource.dataset``.
        train: training split.
        test: test split, with the same image shape and classes.
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, of pixels scaled to 0..1.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]


def measure_mean_and_std(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1.

    Args:
        images: uint8, (N, C, H, W), at least one image.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(dim=1):
        # A histogram is exact and needs no float copy of the images.
        counts = torch.bincount(channel.reshape(-1), minlength=256).to(torch.float64)
        mean = (counts @ levels) / counts.sum()
        variance = (counts @ (levels - mean).square()) / counts.sum()
        means.append(float(mean))
        stds.append(float(variance.sqrt()))
    return tuple(means), tuple(stds)
