"""Clients with random images for methods to train on."""

from __future__ import annotations

from typing import Any

import torch

from shared.plans import TrainingPlan
from worker.data.client_data import ClientData, Examples
from worker.data.images import ImageShape, LabelledImages

NUM_CLASSES = 3
IMAGE_SHAPE = (1, 4, 4)


def random_client_data(
    seed: int, num_train: int, num_test: int = 7, image_shape: ImageShape = IMAGE_SHAPE
) -> ClientData:
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> Examples:
        images = torch.randint(256, (count, *image_shape), generator=generator, dtype=torch.uint8)
        labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
        return Examples(
            LabelledImages(images, labels, ("a", "b", "c")),
            torch.arange(count),
            mean=(0.5,) * image_shape[0],
            std=(0.5,) * image_shape[0],
            image_shape=image_shape,
            augment=False,
        )

    return ClientData(examples(num_train), examples(num_test), NUM_CLASSES)


def tiny_plan(model: str = "tiny", **hyperparameters: Any) -> TrainingPlan:
    return TrainingPlan(
        method="hyperfl",
        model=f"tests.support.extractors:{model}",
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        hyperparameters={"embedding_size": 6, "hidden_size": 4, "batch_size": 5, "epochs": 2}
        | hyperparameters,
    )
