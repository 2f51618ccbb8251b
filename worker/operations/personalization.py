"""Fits hosted clients' own models to the newest weights; nothing is uploaded.

So a client that joined late, or was never in a cohort, gets a model of its own out of a federation
that has ended.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import structlog

from shared.arrays import NamedArrays, digest_arrays
from worker.errors import ConfigError
from worker.methods.interface import (
    Participant,
    Personalizes,
    PrivateTensors,
    TrainingDivergedError,
    TrainingInterrupted,
)
from worker.settings import WorkerConfig, WorkerSettings
from worker.site.hosted_client import HostedClient
from worker.site.opening import Site, open_site
from worker.site.parts import STANDARD_PARTS, SiteParts
from worker.site.validation import keep_if_best

_log = structlog.get_logger()


async def personalize_clients(
    config: WorkerConfig,
    settings: WorkerSettings,
    epochs: int,
    stop: threading.Event,
    parts: SiteParts = STANDARD_PARTS,
) -> list[dict[str, Any]]:
    """For each client: its name, the version, and its model's metrics before and after.

    A client's new private state replaces the old in one write, as soon as the client is done. One
    that diverges keeps its own, has no row, and the log says so; the others go on.

    Raises:
        ConfigError: the method shares nothing or cannot personalise, or a client's update was not
            answered yet. No client's state is touched.
        TrainingInterrupted: ``stop`` was set; clients that were done keep what they have.
    """
    async with open_site(config, settings, parts) as site:
        method = _check(site)
        version, weights = await site.newest_weights()
        rows = []
        for client in site.clients:
            before = await asyncio.to_thread(site.method.evaluate, client.participant(), weights)
            try:
                private = await _personalize(client, method, weights, epochs, stop)
            except TrainingDivergedError as error:
                _log.warning("not personalized, private state unchanged", reason=str(error))
                continue
            await asyncio.to_thread(
                keep_if_best,
                client,
                site.method,
                private,
                weights,
                version=version,
                digest=digest_arrays(weights),
                round_number=client.state.last_round,
            )
            client.save(
                replace(
                    client.state,
                    tensors={name: tensor.numpy() for name, tensor in private.items()},
                )
            )
            after = await asyncio.to_thread(site.method.evaluate, client.participant(), weights)
            rows.append(
                {
                    "client": client.name,
                    "weights_version": version,
                    "accuracy_before": before["accuracy"],
                    "accuracy_after": after["accuracy"],
                    "loss_before": before["loss"],
                    "loss_after": after["loss"],
                    "num_test_examples": int(after["num_test_examples"]),
                }
            )
        return rows


def _check(site: Site) -> Personalizes:
    if not site.specification.parameters.tensors:
        raise ConfigError(
            f"method {site.specification.training.method} shares nothing, so there are no weights "
            "to fit to: each client trains by itself"
        )
    if not isinstance(site.method, Personalizes):
        raise ConfigError(
            f"method {site.specification.training.method} cannot personalise finished weights"
        )
    for client in site.clients:
        if client.state.pending is not None:
            raise ConfigError(
                f"client {client.name} has an update that the coordinator has not answered yet: "
                "run `hyperfl worker run` first to send it"
            )
    return site.method


async def _personalize(
    client: HostedClient,
    method: Personalizes,
    weights: NamedArrays,
    epochs: int,
    stop: threading.Event,
) -> PrivateTensors:
    """The client's private tensors, fitted; they are not saved."""
    participant: Participant = client.participant()
    try:
        return await asyncio.to_thread(
            method.personalize, participant, weights, epochs, stop.is_set
        )
    except TrainingInterrupted as interruption:
        raise TrainingInterrupted(
            f"stopped before client {client.name} was done; its private state is unchanged"
        ) from interruption
