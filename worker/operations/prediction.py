"""What a client's own model says about images or rows, which are read as its data are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.data.arrays_file import SUFFIXES, read_images
from worker.data.dicom_file import Window
from worker.data.folder_scan import images_below
from worker.data.image_file import decode, one_limit
from worker.data.images import ImageShape
from worker.data.row_scaling import RowScaling
from worker.data.source import has_files
from worker.data.table_file import PARQUET_SUFFIXES
from worker.errors import ConfigError, DataError
from worker.methods.interface import BuildsPersonalModel, PersonalModel
from worker.operations.row_prediction import read_inputs, wanted_rows
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.opening import Site, open_site
from worker.site.versions import Which, choose_version

_BATCH_SIZE = 64
_NAMED_FAULTS = 10


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image or row.

    Attributes:
        file: the image, or what it is in.
        probabilities: softmax of the logits, one for each class.
        place: of the example among those of the file; None of an image in a file of its own.
    """

    file: Path
    probabilities: tuple[float, ...]
    place: int | None = None

    @property
    def name(self) -> str:
        """The file, and which of its examples this is."""
        return str(self.file) if self.place is None else f"{self.file}[{self.place}]"


@dataclass(frozen=True)
class Predictions:
    """What a client's model says about images or rows.

    Attributes:
        weights_version: of the shared weights in the model.
        class_names: one for each probability.
        images: in the order in which they were named; those of a folder in alphabetical order.
    """

    weights_version: int
    class_names: tuple[str, ...]
    images: tuple[Prediction, ...]


async def predict(
    config: WorkerConfig,
    settings: WorkerSettings,
    *,
    client: str,
    images: Sequence[Path],
    untrained: bool = False,
    which: Which = "final",
) -> Predictions:
    """What the model of a version and the client's private tensors says; sends nothing.

    Args:
        config: of the worker that hosts the client.
        settings: of the worker.
        client: its name.
        images: files, and folders of them; of a client that was trained on arrays, files of arrays
            with ``images`` or ``features``; of one that was trained on a table's rows, tables.
        which: version of the client's model.
        untrained: whether a client may predict that has trained nothing of its own.

    Raises:
        ConfigError: no such client, it has trained nothing, its method builds no model, or it was
            trained on arrays and is given something else.
        DataError: images cannot be read; names them.
    """
    alone = config.only(client)
    dataset = alone.clients[0].data.dataset
    if dataset == "features":
        known = (".csv", *sorted(PARQUET_SUFFIXES), *SUFFIXES)
        if strange := [file for file in images if file.suffix.lower() not in known]:
            raise ConfigError(
                f"client {client} was trained on rows of features: give {', '.join(known)}, "
                f"not {strange[0]}"
            )
        files = list(images)
    elif has_files(dataset):
        files = [file for given in images for file in images_below(given)]
    elif strange := [file for file in images if file.suffix not in SUFFIXES]:
        raise ConfigError(
            f"client {client} was trained on arrays ({dataset}), and an image file would be read "
            f"in another way than they were made: give {' or '.join(SUFFIXES)}, not {strange[0]}"
        )
    else:
        files = list(images)
    async with open_site(alone, settings) as site:
        return await _predict(site, files, which, untrained=untrained)


async def _predict(
    site: Site, files: Sequence[Path], which: Which, *, untrained: bool
) -> Predictions:
    client, training = site.clients[0], site.specification.training
    if not isinstance(site.method, BuildsPersonalModel):
        raise ConfigError(f"method {training.method} builds no model to predict with")
    if not untrained and which != "best":
        site.check_trained()
    chosen = await choose_version(site, client, which)
    model = await asyncio.to_thread(site.method.personal_model, chosen.participant, chosen.weights)
    scaling, source = client.data.train.scaling, client.source
    mean, std = scaling.normalisation

    def say() -> tuple[Prediction, ...]:
        if isinstance(scaling, RowScaling):
            inputs, places = read_inputs(files, wanted_rows(training, source), source, scaling)
            return tuple(_predictions_of(model, inputs, places))
        return tuple(
            predictions(model, files, training.image_shape, mean, std, source.dicom_window)
        )

    found = await asyncio.to_thread(say)
    return Predictions(chosen.version, client.data.train.class_names, found)


def predictions(
    model: PersonalModel,
    files: Sequence[Path],
    image_shape: ImageShape,
    mean: torch.Tensor,
    std: torch.Tensor,
    dicom_window: Window | None = None,
) -> Iterator[Prediction]:
    """What a model says about images.

    Args:
        model: on the CPU.
        files: of one image each, or of arrays.
        image_shape: (C, H, W) that the model takes.
        mean: (C,), of pixels scaled to 0..1.
        std: (C,), as ``mean``.
        dicom_window: see :func:`worker.data.image_file.decode`.

    Raises:
        DataError: some cannot be read; names them, up to a bound.
    """
    pixels, faults = [], []
    with one_limit():
        for file in files:
            try:
                if file.suffix in SUFFIXES:
                    pixels.append(read_images(file, image_shape))
                else:
                    pixels.append(decode(file, image_shape, dicom_window)[None].float() / 255)
            except DataError as error:
                faults.append(str(error))
    if faults:
        rest = len(faults) - _NAMED_FAULTS
        more = f"; and {rest} more" if rest > 0 else ""
        raise DataError("; ".join(faults[:_NAMED_FAULTS]) + more)
    places = [
        (file, place if file.suffix in SUFFIXES else None)
        for file, images in zip(files, pixels, strict=True)
        for place in range(len(images))
    ]
    normalised = (torch.cat(pixels) - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    yield from _predictions_of(model, normalised, places)


def _predictions_of(
    model: PersonalModel, inputs: torch.Tensor, places: Sequence[tuple[Path, int | None]]
) -> Iterator[Prediction]:
    for number, batch in enumerate(torch.split(inputs, _BATCH_SIZE)):
        with torch.no_grad():
            probabilities = model.head(model.module(batch)).softmax(dim=1)
        named = places[number * _BATCH_SIZE :]
        for (file, place), row in zip(named, probabilities.tolist(), strict=False):
            yield Prediction(file, tuple(row), place)
