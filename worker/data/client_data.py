"""Batches of one client's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from shared.arrays import digest_arrays
from worker.data.augmentation import random_crop_and_flip
from worker.data.images import LabelledImages
from worker.data.scaling import Scaling

Batch = tuple[torch.Tensor, torch.Tensor]


class Examples:
    """One split of one client: positions in a data set that all clients of the process share.

    They stay on the CPU as they are stored; a batch is gathered, moved to the device, brought to
    the model's shape and normalised when it is asked for.
    """

    def __init__(
        self,
        data: LabelledImages,
        positions: torch.Tensor,
        scaling: Scaling,
        *,
        augment: bool,
    ) -> None:
        """Refer to some examples of a data set, without copying one.

        Args:
            data: the whole split, shared.
            positions: int64, (n,), this client's examples in ``data``.
            scaling: what a batch is made by.
            augment: whether a batch that is given a generator is cropped and flipped; of images
                alone.
        """
        self._data = data
        self._positions = positions
        self._labels = data.labels[positions]
        self.scaling = scaling
        """What a batch is made by."""
        self._augment = augment

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (C,) of pixels scaled to 0..1; or (F,) of features."""
        return self.scaling.normalisation

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
        """Of all examples, as they are stored, and their labels."""
        images = self._data.images[self._positions].numpy()
        return digest_arrays({"images": images, "labels": self._labels.numpy()})

    def only(self, positions: torch.Tensor) -> Examples:
        """Some of the examples as a split of their own; ``positions`` are as in :meth:`batch`."""
        own = self._positions[positions]
        return Examples(self._data, own, self.scaling, augment=self._augment)

    def scaled_by(self, scaling: Scaling) -> Examples:
        """The same examples, with batches that are made in another way."""
        return Examples(self._data, self._positions, scaling, augment=self._augment)

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
            float32 images (B, C, H, W), normalised, or rows (B, W); and int64 labels (B,), both on
            ``device``.
        """
        images = self._data.images[self._positions[positions]]
        if self._augment and generator is not None:
            images = random_crop_and_flip(images, generator)
        return self.scaling.apply(images.to(device)), self._labels[positions].to(device)

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

    def scaled_by(self, scaling: Scaling) -> ClientData:
        """The same examples, with batches that are made in another way."""
        held = self.validation
        return replace(
            self,
            train=self.train.scaled_by(scaling),
            test=self.test.scaled_by(scaling),
            validation=None if held is None else held.scaled_by(scaling),
        )

    @property
    def splits(self) -> dict[str, Examples]:
        """All that there are, by name."""
        splits = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: examples for name, examples in splits.items() if examples is not None}
