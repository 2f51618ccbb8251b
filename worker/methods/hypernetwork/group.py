"""The groups that a plan's clients train in, and what a client's change is to the federation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from shared.arrays import Array
from shared.federation.hyperparameters import HyperFLPlan
from shared.federation.sharing import OUTPUT_BIAS
from shared.tensors.low_rank import FactoredDelta
from worker.methods.hypernetwork.bias_group import BiasChange, BiasGroup
from worker.methods.hypernetwork.client import HyperFLClient
from worker.methods.hypernetwork.factored_sgd import rows_needed
from worker.methods.hypernetwork.lock_step import HypernetworkChange, HypernetworkGroup
from worker.methods.hypernetwork.weights import (
    OUTPUT_WEIGHT,
    TRUNK_BIAS,
    TRUNK_WEIGHT,
    HypernetworkWeights,
)
from worker.methods.local_round.sgd import settings_of


def group_for(
    plan: HyperFLPlan,
    weights: HypernetworkWeights,
    embeddings: torch.Tensor,
    num_steps: int,
    round_number: int,
) -> HypernetworkGroup | BiasGroup:
    """Clients with ``embeddings`` (n, e) that take at most ``num_steps`` from ``weights``."""
    settings = replace(settings_of(plan), learning_rate=plan.learning_rate_in(round_number))
    if plan.shared_part == "output-bias":
        return BiasGroup(
            weights,
            embeddings,
            feature_scale=plan.feature_scale,
            settings=settings,
            clip_norm=plan.clip_norm,
        )
    return HypernetworkGroup(
        weights,
        embeddings,
        feature_scale=plan.feature_scale,
        max_rows=rows_needed(plan.hidden_size, num_steps),
        settings=settings,
        clip_norm=plan.clip_norm,
    )


def deltas_of(change: HypernetworkChange | BiasChange) -> dict[str, Array | FactoredDelta]:
    """The changes of the shared tensors, by name."""
    if isinstance(change, BiasChange):
        return {OUTPUT_BIAS: change.bias.cpu().numpy()}
    return {
        TRUNK_WEIGHT: change.trunk_weight.cpu().numpy(),
        TRUNK_BIAS: change.trunk_bias.cpu().numpy(),
        OUTPUT_WEIGHT: FactoredDelta(
            scale=change.output.scale,
            left=change.output.left.cpu().numpy(),
            right=change.output.right.cpu().numpy(),
        ),
        OUTPUT_BIAS: change.output.bias.cpu().numpy(),
    }


def parts_within(
    clients: Sequence[HyperFLClient], output_weight: torch.Tensor, max_bytes: int
) -> Iterator[list[HyperFLClient]]:
    """The clients in their order, in parts whose factors need at most ``max_bytes``, or are of one.

    ``output_weight`` is W (P, h).
    """
    num_outputs, num_features = output_weight.shape
    row_bytes = num_outputs * output_weight.element_size()
    part: list[HyperFLClient] = []
    rows = 0
    for client in clients:
        rows_of_client = rows_needed(num_features, client.num_steps)
        rows = max(rows, rows_of_client)
        if part and (len(part) + 1) * rows * row_bytes > max_bytes:
            yield part
            part, rows = [], rows_of_client
        part.append(client)
    if part:
        yield part
