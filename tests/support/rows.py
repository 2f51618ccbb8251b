"""Rows of features, of nobody: numbers and one column of categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from shared.federation.features import Feature
from shared.federation.plans import TrainingPlan
from worker.data.client_data import ClientData, Examples
from worker.data.images import LabelledImages
from worker.data.row_scaling import measured_scaling

FEATURES = (
    Feature(name="age"),
    Feature(name="sex", categories=("f", "m", "x")),
    Feature(name="bmi"),
)
WIDTH = 5
CLASSES = ("ill", "well")


def random_rows(seed: int, count: int) -> torch.Tensor:
    """float32 (count, 3), raw, with a value missing here and there."""
    generator = np.random.default_rng(seed)
    rows = np.stack(
        [
            generator.normal(50, 20, count),
            generator.integers(0, 3, count),
            generator.normal(25, 4, count),
        ],
        axis=1,
    ).astype(np.float32)
    rows[generator.random(rows.shape) < 0.1] = np.nan
    return torch.from_numpy(rows)


def random_row_data(seed: int, num_train: int = 13, num_test: int = 7) -> ClientData:
    """A client's own, by its own training rows' mean and deviation."""
    splits = []
    for place, count in enumerate((num_train, num_test)):
        rows = random_rows(seed + 100 * place, count)
        labels = torch.from_numpy(np.random.default_rng(seed + place).integers(0, 2, count))
        splits.append(LabelledImages(rows, labels, CLASSES))
    scaling = measured_scaling(FEATURES, splits[0].images.numpy())
    train, test = (
        Examples(split, torch.arange(len(split.labels)), scaling, augment=False) for split in splits
    )
    return ClientData(train, test)


def row_plan(
    method: str = "hyperfl", model: str = "mlp:8x2", **hyperparameters: Any
) -> TrainingPlan:
    return TrainingPlan(
        method=method,
        model=model,
        image_shape=(WIDTH,),
        features=FEATURES,
        num_classes=len(CLASSES),
        class_names=CLASSES,
        hyperparameters=hyperparameters,
    )
