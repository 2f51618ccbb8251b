"""A backbone's weights from training images that no client of an experiment holds.

So that methods on pretrained backbones can be compared where nothing can be downloaded. The
backbone learns the data set's own classes; its classifier is thrown away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy

from shared.validation import first_fault
from worker.data.client_data import Examples
from worker.data.client_split import split_for_client
from worker.data.images import Dataset, ImageShape
from worker.data.loading import DatasetCache
from worker.data.partitions import IntArray
from worker.data.scaling import PixelScaling
from worker.data.source import DataSource
from worker.data.wanted import Wanted
from worker.errors import DataError, ModelError
from worker.files import write_atomically
from worker.models.backbone_weights import backbone_digest
from worker.models.backbones import find_backbone

METADATA_KEY = "hyperfl-pretraining"
_HELD_OUT_SHARE = 20
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Recipe:
    """AdamW with a one-cycle schedule; ``learning_rate`` is the highest."""

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int


def source_of(
    dataset: str, data_dir: Path | None, partition: str, num_clients: int, seed: int
) -> DataSource:
    """What the experiment's first client holds. Raises DataError if there can be no such client."""
    try:
        return DataSource.model_validate(
            {
                "dataset": dataset,
                "data_dir": data_dir,
                "partition": partition,
                "num_clients": num_clients,
                "seed": seed,
            }
        )
    except ValidationError as error:
        raise DataError(str(first_fault(error))) from error


def images_of_nobody(source: DataSource, dataset: Dataset) -> IntArray:
    """Positions of the training images that none of the source's clients holds, ascending.

    Raises:
        DataError: there are none.
    """
    held = [
        split_for_client(source.model_copy(update={"client_index": index}), dataset)[0]
        for index in range(source.num_clients)
    ]
    left = np.setdiff1d(np.arange(len(dataset.train.labels)), np.concatenate(held))
    if not len(left):
        raise DataError(
            f"the partition {source.partition} gives every training image of {source.dataset} to "
            f"one of {source.num_clients} clients: none is left to pretrain on"
        )
    return left


def pretrain(
    model: str,
    image_shape: ImageShape,
    source: DataSource,
    recipe: Recipe,
    output: Path,
    on_epoch: Callable[[int, float, float], None],
) -> dict[str, Any]:
    """Trains ``model`` and writes its weights, without a classifier, to ``output``.

    Args:
        model: of a frozen backbone.
        image_shape: channels, height, width.
        source: of the clients whose images are left out.
        recipe: how to train.
        output: a safetensors file; its metadata say how it was made.
        on_epoch: told the epoch from 1, its mean training loss, and the accuracy (0 to 1) on
            images kept apart.

    Returns:
        The metadata: what was trained, on how many images, with what accuracy, and the digest
        that federations pin.

    Raises:
        ModelError, DataError: the model or the data cannot be used.
    """
    if not 0 < recipe.learning_rate < math.inf:
        raise ModelError(f"the learning rate {recipe.learning_rate} is not positive and finite")
    if output.suffix != ".safetensors":
        raise ModelError(f"{output}: the file's name must end in .safetensors")
    backbone = find_backbone(model)
    statistics = (backbone.config.mean, backbone.config.std)
    dataset = DatasetCache().dataset(source, Wanted(image_shape))
    generator = np.random.default_rng(recipe.seed)
    positions = torch.from_numpy(images_of_nobody(source, dataset))
    positions = positions[torch.from_numpy(generator.permutation(len(positions)))]
    num_held_out = max(1, len(positions) // _HELD_OUT_SHARE)
    held_out, trained = (
        Examples(
            dataset.train,
            part,
            PixelScaling(*statistics, image_shape),
            augment=False,
        )
        for part in (positions[:num_held_out], positions[num_held_out:])
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            network = backbone.build(image_shape, from_hub=False)
        except Exception as error:  # whatever timm makes of the image's size
            raise ModelError(f"building model {model!r} failed: {error}") from error
        classifier = nn.Linear(backbone.feature_width(network), len(dataset.train.class_names))
    whole = nn.Sequential(network, classifier).to(device)
    accuracy = 0.0
    for epoch, loss in enumerate(_epochs(whole, trained, recipe, generator, device), start=1):
        accuracy = _accuracy(whole, held_out, recipe.batch_size, device)
        on_epoch(epoch, loss, accuracy)
    network = network.cpu()
    made = {
        "model": model,
        "image_shape": image_shape,
        "dataset": source.dataset,
        "left_out": {"partition": source.partition, "num_clients": source.num_clients},
        "images": len(trained),
        "accuracy": accuracy,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "digest": backbone_digest(network),
    }
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(made)}))
    return made


def _epochs(
    whole: nn.Module,
    examples: Examples,
    recipe: Recipe,
    generator: np.random.Generator,
    device: torch.device,
) -> Iterator[float]:
    """Trains in place; yields each epoch's mean loss."""
    optimizer = torch.optim.AdamW(
        whole.parameters(), lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        epochs=recipe.epochs,
        steps_per_epoch=-(-len(examples) // recipe.batch_size),
    )
    for _ in range(recipe.epochs):
        whole.train()
        total = 0.0
        for images, labels in examples.shuffled_batches(recipe.batch_size, device, generator):
            # A last batch of one image has no variance to normalise by.
            if len(labels) > 1:
                loss = cross_entropy(whole(images), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += float(loss.detach()) * len(labels)
            schedule.step()
        yield total / len(examples)


def _accuracy(whole: nn.Module, examples: Examples, batch_size: int, device: torch.device) -> float:
    whole.eval()
    with torch.no_grad():
        correct = sum(
            int((whole(images).argmax(dim=1) == labels).sum())
            for images, labels in examples.batches(batch_size, device)
        )
    return correct / len(examples)
