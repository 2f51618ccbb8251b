"""Streams a round's updates out of the database through the aggregation, and its result back in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coordinator import blobs
from coordinator.aggregation import WeightedMean
from coordinator.blobs import BlobWriter
from coordinator.context import Context
from coordinator.store import federations as federation_store
from coordinator.store import rounds as store
from coordinator.store.rounds import Contribution
from coordinator.tables import FederationRow, RoundRow, WeightsRow
from shared import codec
from shared.arrays import Array, digest_arrays, digest_bytes
from shared.schema import TaskKind


class AggregationFailed(Exception):
    """The updates cannot be aggregated; the round fails with this reason."""


class AggregationLeaseLost(Exception):
    """Another coordinator took the round over."""


@dataclass(frozen=True)
class NewWeights:
    """Weights written as a blob that is not sealed yet."""

    writer: BlobWriter
    digest: str
    content_digest: str


@dataclass(frozen=True)
class AggregatedRound:
    """What a round comes to; ``weights`` is None if it trained nothing."""

    num_updates: int
    weights: NewWeights | None


async def aggregate(
    context: Context,
    federation: FederationRow,
    round_: RoundRow,
    extend_lease: Callable[[], Awaitable[bool]],
) -> AggregatedRound:
    """Reads every recorded update in order of client name, one chunk in memory at a time.

    ``extend_lease`` is called between updates; when it answers false the work is dropped.

    Raises:
        AggregationFailed: an update's bytes are damaged, or the result exceeds float32.
        AggregationLeaseLost: the round is no longer ours.
    """
    async with context.database.reading() as session:
        contributions = await store.contributions(session, round_.id)
        base = await federation_store.find_weights(session, federation.id, round_.base_version)
    if round_.kind == TaskKind.EVALUATE:
        return AggregatedRound(len(contributions), None)
    mean = WeightedMean(context.specification(federation).parameters)
    for contribution in contributions:
        await _add(context, mean, contribution)
        if not await extend_lease():
            raise AggregationLeaseLost
    base_weights = await _read_weights(context, base)
    try:
        weights = await asyncio.to_thread(mean.apply_to, base_weights)
    except codec.CodecError as error:
        raise AggregationFailed(str(error)) from error
    del base_weights
    return AggregatedRound(len(contributions), await _write_weights(context, weights))


async def _add(context: Context, mean: WeightedMean, contribution: Contribution) -> None:
    if contribution.blob_id is None:
        raise AggregationFailed(f"the update of client {contribution.client_name} is gone")
    reader = codec.StreamReader()
    state = hashlib.sha256()

    def add_piece(piece: bytes) -> None:
        state.update(piece)
        for block in reader.feed(piece):
            mean.add_block(contribution.num_examples, block)

    mean.add_examples(contribution.num_examples)
    async for piece in blobs.read(context.database, contribution.blob_id):
        await asyncio.to_thread(add_piece, piece)
    if f"sha256:{state.hexdigest()}" != contribution.digest:
        raise AggregationFailed(
            f"the stored update of client {contribution.client_name} is damaged"
        )


async def _read_weights(context: Context, weights: WeightsRow) -> dict[str, Array]:
    content = bytearray()
    async for piece in blobs.read(context.database, weights.blob_id):
        content += piece
    arrays, _ = await asyncio.to_thread(codec.decode, content)
    if await asyncio.to_thread(digest_arrays, arrays) != weights.digest:
        raise AggregationFailed(f"the stored weights of version {weights.version} are damaged")
    return arrays


async def _write_weights(context: Context, weights: dict[str, Array]) -> NewWeights:
    digest = await asyncio.to_thread(digest_arrays, weights)
    content = await asyncio.to_thread(codec.encode, weights)
    content_digest = await asyncio.to_thread(digest_bytes, content)
    weights.clear()
    writer = await BlobWriter.open(context.database, context.clock())
    view = memoryview(content)
    for start in range(0, len(content), blobs.CHUNK_BYTES):
        await writer.append(view[start : start + blobs.CHUNK_BYTES])
    await writer.flush()
    return NewWeights(writer, digest, content_digest)
