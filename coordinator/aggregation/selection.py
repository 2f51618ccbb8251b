"""Which of a round's updates count, with what weight, and clipped by how much."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import structlog

from coordinator.aggregation import robust_rules
from coordinator.aggregation.round_updates import CountedUpdate, RoundUpdates
from coordinator.aggregation.update_file import UpdateFile
from coordinator.errors import AggregationFailed
from shared.federation.specification import ParameterSpecification
from shared.tensors.factored_encoding import is_matrix

_log = structlog.get_logger()


async def select_updates(updates: RoundUpdates) -> list[CountedUpdate]:
    """The updates that the policy lets count and the rule averages or combines.

    Raises:
        AggregationFailed: too few are left, or one is damaged.
    """
    return await _choose(updates, await _limit(updates))


async def _limit(updates: RoundUpdates) -> list[CountedUpdate]:
    """The updates with their weights, those over the policy's norm clipped or left out."""
    policy = updates.specification.round_policy
    counted = [
        CountedUpdate(one, min(one.num_examples, policy.max_examples_weight or one.num_examples))
        for one in updates.contributions
    ]
    if policy.max_update_norm is None:
        return counted
    base = await updates.read_base() if updates.is_factored else None
    limited = []
    for one in counted:
        norm = await updates.certified_norm(one, base)
        factor = robust_rules.clip_factor(norm, policy.max_update_norm)
        update = await updates.open(one.contribution)
        # Dense updates were judged when they came, by a sum in another order.
        if factor == 1.0 or (policy.on_excess == "reject" and not update.is_factored):
            limited.append(one)
            continue
        _log.warning(
            "update over max_update_norm",
            federation=updates.specification.name,
            client=one.contribution.client_name,
            norm=norm,
            max_update_norm=policy.max_update_norm,
            on_excess=policy.on_excess,
        )
        if policy.on_excess == "clip":
            limited.append(replace(one, factor=factor))
    if len(limited) < policy.minimum_updates:
        raise AggregationFailed(
            f"{len(counted) - len(limited)} of {len(counted)} updates are over max_update_norm "
            f"{policy.max_update_norm:g}; minimum_updates is {policy.minimum_updates}"
        )
    return limited


async def _choose(updates: RoundUpdates, counted: list[CountedUpdate]) -> list[CountedUpdate]:
    """The updates that the rule averages or combines, with their weights; some may be 0."""
    plan = updates.specification.aggregation
    if plan.rule == "mean":
        return counted
    if len(counted) < plan.fewest_updates:
        raise AggregationFailed(
            f"aggregation {plan.rule} needs at least {plan.fewest_updates} updates, "
            f"but the round has {len(counted)}"
        )
    counted = [replace(one, weight=1) for one in counted]
    if plan.hostile_clients is None:
        return counted
    distances = robust_rules.SquaredDistances(len(counted))
    base = await updates.read_base() if updates.is_factored else None
    offsets = await common_scales(updates, counted)
    async for _, stack in updates.stacks(counted, base, offsets):
        await asyncio.to_thread(distances.add, stack)
    chosen = await asyncio.to_thread(
        robust_rules.choose_multi_krum, distances.matrix, plan.hostile_clients
    )
    # All of them are read again: a sum of other updates, in other blocks, is rounded differently.
    return [replace(one, weight=int(index in chosen)) for index, one in enumerate(counted)]


async def common_scales(
    updates: RoundUpdates, counted: Sequence[CountedUpdate]
) -> dict[str, float]:
    """For every matrix the median of the clients' scales of W, as float32 can hold it.

    None of them changes its matrix by more than the policy lets a client change all tensors. Empty
    in a dense federation.
    """
    if not updates.is_factored:
        return {}
    opened = [(await updates.open(one.contribution), one.factor) for one in counted]
    cap = await updates.largest_change()
    norms = {} if math.isinf(cap) else await updates.base_norms()
    largest = {name: cap / norm for name, norm in norms.items() if norm > 0.0}
    parameters = updates.specification.parameters
    return await asyncio.to_thread(_median_scales, opened, parameters, largest)


def _median_scales(
    opened: Sequence[tuple[UpdateFile, float]],
    parameters: ParameterSpecification,
    largest: Mapping[str, float],
) -> dict[str, float]:
    scales = {}
    for tensor in parameters.tensors:
        if is_matrix(tensor):
            median = np.median([factor * update.base_scale(tensor) for update, factor in opened])
            most = largest.get(tensor.name, 1.0)
            scales[tensor.name] = float(np.float32(np.clip(median, -most, most)))
    return scales
