"""Measures a client's model on its validation split, and keeps the best: all of it at the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog
import torch

from shared.arrays import NamedArrays
from worker.data.client_data import Examples
from worker.methods.interface import Method
from worker.site.best_version import BestVersion, KeptVersion, is_better
from worker.site.hosted_client import HostedClient

_log = structlog.get_logger()


def keep_if_best(
    client: HostedClient,
    method: Method,
    private: Mapping[str, torch.Tensor],
    weights: NamedArrays,
    *,
    version: int,
    digest: str,
    round_number: int,
) -> BestVersion | None:
    """Measures a version on the client's validation split, and keeps it if none was better.

    Args:
        client: whose it is; one without a validation split has no best version.
        method: of the federation.
        private: the client's private tensors of this version, on the CPU.
        weights: the shared ones, float32 by name.
        version: of the weights.
        digest: of the weights.
        round_number: see :class:`worker.site.best_version.BestVersion`.

    Returns:
        What was measured; None without a validation split.

    Raises:
        OSError: the disk does not take it; what was best before is kept.
        PrivateStateError: what was best before cannot be read.
    """
    validation = client.data.validation
    if validation is None:
        return None
    measured = _measure(client, method, private, weights, validation)
    about = BestVersion(
        federation=client.state.federation,
        specification_digest=client.state.specification_digest,
        client=client.name,
        weights_version=version,
        weights_digest=digest,
        round_number=round_number,
        **measured,
    )
    log = _log.bind(client=client.name, version=version, accuracy=about.accuracy, loss=about.loss)
    kept = client.best()
    if kept is not None and kept.examples_digest != about.examples_digest:
        kept = _measure_kept_again(client, method, validation)
    if is_better(about, kept):
        tensors = {name: tensor.numpy() for name, tensor in private.items()}
        client.keep(KeptVersion(about, tensors, weights))
        log.info("best version so far kept")
    else:
        log.info("validation measured")
    return about


def _measure_kept_again(
    client: HostedClient, method: Method, validation: Examples
) -> BestVersion | None:
    """What was best on another validation split, on today's."""
    kept = client.load_best()
    if kept is None:
        return None
    private = {name: torch.from_numpy(array.copy()) for name, array in kept.private.items()}
    measured = _measure(client, method, private, kept.weights, validation)
    about = kept.about.model_copy(update=measured)
    client.keep(replace(kept, about=about))
    _log.info("best version measured on another validation split", client=client.name)
    return about


def _measure(
    client: HostedClient,
    method: Method,
    private: Mapping[str, torch.Tensor],
    weights: NamedArrays,
    validation: Examples,
) -> dict[str, Any]:
    """What a :class:`BestVersion` says of a version and a validation split."""
    participant = client.participant()
    data = replace(participant.data, test=validation)
    measured = method.evaluate(replace(participant, data=data, private=dict(private)), weights)
    return {
        "accuracy": measured["accuracy"],
        "loss": measured["loss"],
        "num_examples": len(validation),
        "examples_digest": validation.content_digest,
    }
