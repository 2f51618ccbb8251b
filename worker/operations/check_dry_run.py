"""Trains one round on a private state that is thrown away; nothing is sent or kept."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import torch

from shared.federation.specification import FederationSpecification
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from worker.data.loading import DatasetCache
from worker.errors import WorkerError
from worker.methods import build_method
from worker.methods.interface import Participant, TrainingResult
from worker.models.registry import pixel_statistics
from worker.operations.check_rows import Row, fault, ok
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.device import find_devices
from worker.site.hosted_client import SEED_BITS
from worker.site.opening import resources_of

_CHECK = "dry run"
_ROUND = 1


def dry_run_round(
    config: WorkerConfig, settings: WorkerSettings, specification: FederationSpecification
) -> Iterator[Row]:
    """A row for each client: what a first round from the first weights took and gave."""
    training = specification.training
    try:
        device = find_devices(settings.device)[0]
        method = build_method(training, device, resources_of(config, settings, device))
        weights = specification.parameters.initial_values()
        datasets = DatasetCache(pixel_statistics(training.model))
        for client in config.clients:
            seed = secrets.randbits(SEED_BITS)
            data = datasets.client_data(
                client.data,
                training.image_shape,
                training.num_classes,
                training.class_names,
                training.features,
            )
            private = method.initial_private(seed)
            participant = Participant(client.name, data, private, seed, number=0)
            begun = time.monotonic()
            (result,) = method.train([participant], weights, _ROUND, lambda: False)
            seconds = time.monotonic() - begun
            yield ok(_CHECK, _said(result, seconds, specification, device), client.name)
    except (WorkerError, ValueError) as error:
        yield fault(_CHECK, error)


def _said(
    result: TrainingResult,
    seconds: float,
    specification: FederationSpecification,
    device: torch.device,
) -> str:
    parts = [f"a round on {result.num_examples} examples took {seconds:.1f} s on {device}"]
    if "accuracy_after" in result.metrics:
        parts.append(f"accuracy {100 * result.metrics['accuracy_after']:.2f} %")
    if specification.protection is None and result.deltas:
        weights = specification.parameters.initial_values()
        encoded = encoding_for(specification.encoding).encode(
            result.deltas, {}, weights, specification.parameters
        )
        parts.append(f"its update would have {len(codec.encode(encoded.wire, {}))} bytes")
    return "; ".join(parts)
