"""Measures a client's model on its validation split, and keeps the best: all of it at the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog
import torch

from shared.arrays import NamedArrays
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
    participant = client.participant()
    data = replace(participant.data, test=validation)
    measured = method.evaluate(replace(participant, data=data, private=dict(private)), weights)
    about = BestVersion(
        federation=client.state.federation,
        specification_digest=client.state.specification_digest,
        client=client.name,
        weights_version=version,
        weights_digest=digest,
        round_number=round_number,
        accuracy=measured["accuracy"],
        loss=measured["loss"],
        num_examples=len(validation),
    )
    log = _log.bind(client=client.name, version=version, accuracy=about.accuracy, loss=about.loss)
    if is_better(about, client.best()):
        tensors = {name: tensor.numpy() for name, tensor in private.items()}
        client.keep(KeptVersion(about, tensors, weights))
        log.info("best version so far kept")
    else:
        log.info("validation measured")
    return about
