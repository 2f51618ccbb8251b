"""Makes a round's updates into the next version of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.blobs import DamagedBlobError
from coordinator.context import Context
from coordinator.new_weights import NewWeights, make_new_weights
from coordinator.round_updates import AggregationFailed, RoundUpdates
from coordinator.selection import select_updates
from coordinator.store import federations as federation_store
from coordinator.store import updates as update_store
from coordinator.tables import FederationRow, RoundRow
from shared.codec import NonFiniteError
from shared.schema import TaskKind


@dataclass(frozen=True)
class AggregatedRound:
    """What a round comes to; ``new`` is None if it trained nothing."""

    num_updates: int
    new: NewWeights | None


async def aggregate(
    context: Context, federation: FederationRow, round_: RoundRow
) -> AggregatedRound:
    """Aggregates the recorded updates that count, with memory that does not grow with them.

    Raises:
        AggregationFailed: stored bytes are damaged, too few updates count, or the result exceeds
            float32.
    """
    async with context.database.reading() as session:
        contributions = await update_store.contributions(session, round_.id)
        base = await federation_store.find_weights(session, federation.id, round_.base_version)
    if round_.kind == TaskKind.EVALUATE:
        return AggregatedRound(len(contributions), None)
    specification = context.specification(federation)
    updates = RoundUpdates(context, specification, base, contributions)
    try:
        counted = await select_updates(updates)
        return AggregatedRound(len(contributions), await make_new_weights(updates, counted))
    except (NonFiniteError, DamagedBlobError) as error:
        raise AggregationFailed(str(error)) from error
