"""A hosted client's model, from the weights of a version and its private tensors."""

from __future__ import annotations

import asyncio
from pathlib import Path

from worker.data.row_scaling import RowScaling
from worker.data.source import has_files
from worker.errors import ConfigError, ExportError
from worker.export.formats import FORMATS, encode
from worker.export.loading import loading_code
from worker.export.model import (
    AnyExportedModel,
    Description,
    ExportedModel,
    ExportedRowModel,
    Preprocessing,
    describe_input,
    describe_rows,
)
from worker.files import write_atomically
from worker.methods.interface import BuildsPersonalModel
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.hosted_client import HostedClient
from worker.site.opening import Site, open_site
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.site.versions import Which, choose_version


async def export_client(
    config: WorkerConfig,
    settings: WorkerSettings,
    *,
    client: str,
    which: Which,
    file_format: str,
    output: Path,
    untrained: bool = False,
    parts: SiteParts = STANDARD_PARTS,
) -> tuple[Description, str]:
    """Writes one client's model to ``output``.

    Returns:
        What the file says of itself, and Python code that loads it.

    Args:
        config: of the worker that hosts the client.
        settings: of the worker.
        client: its name.
        which: version of the client's model.
        file_format: one of :data:`worker.export.formats.FORMATS`.
        output: the file.
        untrained: whether a client is exported too that has trained nothing.
        parts: what the site is put together from.

    Raises:
        ConfigError: no such client or format, a method that builds no model, a client that has
            trained nothing, or a version that its private tensors do not fit.
        ExportError: the model cannot be written in this format.
        Refused: the coordinator has no such version any longer.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"unknown format {file_format!r}; there are {', '.join(FORMATS)}")
    async with open_site(config.only(client), settings, parts) as site:
        if not untrained and which != "best":
            site.check_trained()
        description, model = await _build(site, site.clients[0], which)
        if file_format == "state-dict" and description.features is None:
            contract = describe_input(description.image_shape, is_normalised=False)
            description = description.model_copy(update={"input": contract})
        content = await asyncio.to_thread(encode, model, description, file_format)
        await asyncio.to_thread(write_atomically, output, content)
        return description, loading_code(model, description, file_format, output)


async def _build(
    site: Site, client: HostedClient, which: Which
) -> tuple[Description, AnyExportedModel]:
    training = site.specification.training
    if not isinstance(site.method, BuildsPersonalModel):
        raise ConfigError(f"method {training.method} builds no model to export")
    chosen = await choose_version(site, client, which)
    mean, std = client.data.train.normalisation
    try:
        personal = await asyncio.to_thread(
            site.method.personal_model, chosen.participant, chosen.weights
        )
    except ValueError as error:
        raise ExportError(str(error)) from error
    scaling = client.data.train.scaling
    features, preprocessing = None, None
    contract = describe_input(training.image_shape, is_normalised=True)
    if isinstance(scaling, RowScaling):
        features, contract = scaling.features, describe_rows(len(scaling.features))
    elif has_files(client.source.dataset):
        preprocessing = Preprocessing.for_shape(training.image_shape, client.source.dicom_window)
    description = Description(
        federation=site.specification.name,
        client=client.name,
        weights_version=chosen.version,
        weights_digest=chosen.digest,
        method=training.method,
        model=training.model,
        input=contract,
        image_shape=training.image_shape,
        features=features,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        preprocessing=preprocessing,
        output=f"float32 logits (B, {training.num_classes})",
        class_names=client.data.train.class_names,
    )
    if isinstance(scaling, RowScaling):
        return description, ExportedRowModel(personal, scaling)
    return description, ExportedModel(personal, mean, std)
