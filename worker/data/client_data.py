"""Batches of one client's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from shared.arrays import digest_arrays
from worker.data.augmentation import random_crop_and_flip
from worker.data.images import ImageShape, LabelledImages
from worker.data.resizing import enlarge

Batch = tuple[torch.Tensor, torch.Tensor]


class Examples:
    """One split of one client: positions in a data set that all clients of the process share.

    The images stay uint8 on the CPU; a batch is gathered, moved to the device, brought to the
    model's shape and normalised when it is asked for.
    """

    def __init__(
        self,
        data: LabelledImages,
        positions: torch.Tensor,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_shape: ImageShape,
        augment: bool,
    ) -> None:
        """Refer to some examples of a data set, without copying an image.

        Args:
            data: the whole split, shared.
            positions: int64, (n,), this client's examples in ``data``.
            mean: per channel of ``data``, of pixels scaled to 0..1; three where ``data`` is grey
                make a grey image three channels.
            std: as many, of pixels scaled to 0..1.
            image_shape: (C, H, W) of the batches.
            augment: whether a batch that is given a generator is cropped and flipped.
        """
        self._data = data
        self._positions = positions
        self._labels = data.labels[positions]
        self._image_shape = image_shape
        self._augment = augment
        # (x / 255 - mean) / std as one product and one difference.
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        std_column = self._std.view(-1, 1, 1)
        self._scale = 1 / (255 * std_column)
        self._shift = self._mean.view(-1, 1, 1) / std_column

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (C,) of the model's channels, of pixels scaled to 0..1."""
        channels = self._image_shape[0]
        return (self._mean.expand(channels).clone(), self._std.expand(channels).clone())

    @property
    def is_augmented(self) -> bool:
        """Whether a batch that is given a generator is cropped and flipped at random."""
        return self._augment

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per label."""
        return self._data.class_names

    @property
    def labels(self) -> torch.Tensor:
        """int64 on the CPU, (n,)."""
        return self._labels

    @cached_property
    def content_digest(self) -> str:
        """Of all images, as they are stored, and their labels."""
        images = self._data.images[self._positions].numpy()
        return digest_arrays({"images": images, "labels": self._labels.numpy()})

    def only(self, positions: torch.Tensor) -> Examples:
        """Some of the examples as a split of their own; ``positions`` are as in :meth:`batch`."""
        return Examples(
            self._data,
            self._positions[positions],
            mean=tuple(self._mean.tolist()),
            std=tuple(self._std.tolist()),
            image_shape=self._image_shape,
            augment=self._augment,
        )

    def batch(
        self,
        positions: torch.Tensor,
        device: torch.device,
        generator: np.random.Generator | None = None,
    ) -> Batch:
        """Some of the examples, ready for the model.

        Args:
            positions: int64 on the CPU, (B,), each in 0..len(self)-1.
            device: where the batch is wanted.
            generator: given, and with augmentation on, every image is cropped at random (4
                pixels of black padding, at its stored size) and flipped at random.

        Returns:
            float32 images (B, C, H, W), normalised, and int64 labels (B,), both on ``device``.
        """
        images = self._data.images[self._positions[positions]]
        if self._augment and generator is not None:
            images = random_crop_and_flip(images, generator)
        pixels = images.to(device).float()
        if pixels.shape[1] < len(self._scale):
            pixels = pixels.repeat(1, len(self._scale), 1, 1)
        pixels.mul_(self._scale.to(device)).sub_(self._shift.to(device))
        return enlarge(pixels, self._image_shape), self._labels[positions].to(device)

    def batches(self, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """All examples in order, never augmented, the last short batch included."""
        for positions in torch.split(torch.arange(len(self)), batch_size):
            yield self.batch(positions, device)

    def shuffled_batches(
        self, batch_size: int, device: torch.device, generator: np.random.Generator
    ) -> Iterator[Batch]:
        """One epoch in an order drawn from the generator, the last short batch included.

        With augmentation on, crops and flips are drawn from the same generator, batch by batch.
        """
        order = torch.from_numpy(generator.permutation(len(self)))
        for positions in torch.split(order, batch_size):
            yield self.batch(positions, device, generator)


@dataclass(frozen=True, eq=False)
class ClientData:
    """The examples of one client.

    Attributes:
        train: training split.
        test: test split.
        left_out: number of files of its data set that were passed over, by what they are.
        validation: what the client's best version is chosen by, and nothing is trained on; None
            where it has none.
    """

    train: Examples
    test: Examples
    left_out: Mapping[str, int] = field(default_factory=dict)
    validation: Examples | None = None

    @property
    def splits(self) -> dict[str, Examples]:
        """All that there are, by name."""
        splits = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: examples for name, examples in splits.items() if examples is not None}
