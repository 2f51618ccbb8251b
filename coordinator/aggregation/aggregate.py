"""Makes a round's updates into the next version of the weights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.aggregation.next_version import NewVersion, make_next_version, write_version
from coordinator.aggregation.round_updates import DEFAULT_MEMORY, RoundUpdates, StackMemory
from coordinator.aggregation.selection import select_updates
from coordinator.aggregation.unmasking import unmask_sum
from coordinator.context import Context
from coordinator.errors import AggregationFailed, DamagedBlobError
from coordinator.store import assignments as assignment_store
from coordinator.store import updates as update_store
from coordinator.store import weights as weights_store
from coordinator.store.tables import FederationRow, RoundRow
from shared.rest.schema import TaskKind
from shared.tensors.file_header import NonFiniteError


@dataclass(frozen=True)
class AggregatedRound:
    """What a round comes to; ``new`` is None if it trained nothing."""

    num_updates: int
    update_bytes: int
    new: NewVersion | None
    metrics: dict[str, float] | None = None
    """The cohort's means, where only their sum is known."""
    not_heard_from: Sequence[str] = ()
    """Clients of the cohort without an update, by name."""


async def aggregate(
    context: Context,
    federation: FederationRow,
    round_: RoundRow,
    memory: StackMemory = DEFAULT_MEMORY,
) -> AggregatedRound:
    """Aggregates the recorded updates that count, with memory that does not grow with them.

    Raises:
        AggregationFailed: stored bytes are damaged, too few updates count, what unmasks a sum does
            not fit, or the result exceeds float32 or the policy's cap.
    """
    async with context.database.reading() as session:
        contributions = await update_store.contributions(session, round_.id)
        unheard = await assignment_store.not_heard_from(session, round_.id)
        base = await weights_store.find(session, federation.id, round_.base_version)
    specification = context.specification(federation)
    updates = RoundUpdates(context, specification, base, contributions, memory)
    num_bytes = sum(one.size_bytes for one in contributions)
    if round_.is_protected:
        return await _aggregate_sum(context, round_, updates, num_bytes, unheard)
    if round_.kind == TaskKind.EVALUATE:
        return AggregatedRound(len(contributions), num_bytes, None, not_heard_from=unheard)
    try:
        counted = await select_updates(updates)
        new = await make_next_version(updates, counted)
    except (NonFiniteError, DamagedBlobError) as error:
        raise AggregationFailed(str(error)) from error
    return AggregatedRound(len(contributions), num_bytes, new, not_heard_from=unheard)


async def _aggregate_sum(
    context: Context,
    round_: RoundRow,
    updates: RoundUpdates,
    num_bytes: int,
    unheard: Sequence[str],
) -> AggregatedRound:
    try:
        total = await unmask_sum(context, round_, updates)
        new, metrics = None, dict(total.metrics)
        if round_.kind == TaskKind.TRAIN:
            if (privacy := updates.specification.training.privacy) is not None:
                spent = await asyncio.to_thread(privacy.epsilon_after, round_.number)
                metrics["epsilon_spent"] = spent
            weights = await updates.read_base()
            await asyncio.to_thread(total.apply_to, weights, updates.specification.parameters)
            new = await write_version(updates, weights)
    except (NonFiniteError, DamagedBlobError) as error:
        raise AggregationFailed(str(error)) from error
    return AggregatedRound(len(updates.contributions), num_bytes, new, metrics, unheard)
