"""Labelled images, or rows of features, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

ImageShape = tuple[int, ...]
"""Of one example: channels, height, width of an image; or the length of a vector."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels scaled to 0..1."""

_IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY_STATISTICS: Statistics = ((0.5,), (0.5,))


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a data set, decoded.

    Attributes:
        images: uint8, (N, C, H, W), pixels 0..255; or float32, (N, F), rows of features as
            :mod:`worker.data.row_scaling` takes them.
        labels: int64, (N,), each in 0..len(class_names)-1.
        class_names: one name per label.
        left_out: number of files that were passed over, by what they are.
        groups: int64, (N,), whose examples each is, such as a patient's: those of one group never
            lie in two splits. None where nothing says so.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    groups: torch.Tensor | None = None

    @property
    def has_rows(self) -> bool:
        """Whether its examples are rows of features, and no images."""
        return self.images.ndim == 2


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with the statistics its pixels are normalised by.

    Attributes:
        name: as in ``DataSource.dataset``.
        train: training split.
        test: test split, with the same image shape and classes.
        mean: per channel, of pixels scaled to 0..1; of rows none.
        std: per channel, of pixels scaled to 0..1; of rows none.
        validation: a third split, where the data set has one of its own.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: LabelledImages | None = None

    @property
    def splits(self) -> Iterator[LabelledImages]:
        """All that there are."""
        yield self.train
        yield self.test
        if self.validation is not None:
            yield self.validation


def own_dataset(name: str, splits: Mapping[str, LabelledImages], channels: int) -> Dataset:
    """A site's own data: images are normalised by the same statistics at every site.

    Args:
        name: as in ``DataSource.dataset``.
        splits: ``train``, ``test``, and maybe ``validation``.
        channels: of the model's input, 1 or 3; of rows it does not matter.
    """
    mean, std = _GREY_STATISTICS if channels == 1 else _IMAGENET_STATISTICS
    if splits["train"].has_rows:  # each client measures its own
        mean, std = (), ()
    return Dataset(name, splits["train"], splits["test"], mean, std, splits.get("validation"))


def measure_mean_and_std(images: torch.Tensor) -> Statistics:
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
