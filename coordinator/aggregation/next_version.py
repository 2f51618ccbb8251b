"""The next version of the weights, out of the updates that count and the version before."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.aggregation.dense_round import new_weights
from coordinator.aggregation.factored_mean import FactoredMean, PublishedDelta
from coordinator.aggregation.factored_round import gather_change
from coordinator.aggregation.move_limit import MoveLimit
from coordinator.aggregation.round_updates import CountedUpdate, RoundUpdates
from coordinator.aggregation.weighted_mean import refuse_overflow
from coordinator.errors import AggregationFailed
from coordinator.store.blobs import BlobWriter
from shared.arrays import Array, NamedArrays, digest_arrays
from shared.tensors import codec
from shared.tensors.factored_encoding import Compression, scale_wire
from shared.tensors.norms import squared_distance
from shared.tensors.version_deltas import advance_weights


@dataclass(frozen=True)
class NewVersion:
    """The next version: its digest, its file, and in a factored federation how it came about."""

    digest: str
    weights: BlobWriter
    delta: BlobWriter | None = None
    residual: BlobWriter | None = None

    @property
    def blobs(self) -> list[BlobWriter]:
        """Everything that was written."""
        return [blob for blob in (self.weights, self.delta, self.residual) if blob is not None]


async def make_next_version(updates: RoundUpdates, counted: Sequence[CountedUpdate]) -> NewVersion:
    """Averages or combines the updates, and writes what is published; nothing if that fails.

    Raises:
        AggregationFailed: stored bytes are damaged, or the weights would move by more than the
            policy's cap.
        NonFiniteError: the result exceeds float32.
    """
    making = _NextVersion(updates, counted)
    try:
        return await making.run()
    except BaseException:
        for blob in making.written:
            await asyncio.shield(blob.discard())
        raise


async def write_version(updates: RoundUpdates, weights: dict[str, Array]) -> NewVersion:
    """Writes whole weights, float32 by name, as the next version; nothing if that fails.

    They are nearer to the base if they are farther from it than the policy's cap.

    Raises:
        AggregationFailed: stored bytes are damaged.
        NonFiniteError: a value exceeds float32.
    """
    making = _NextVersion(updates, ())
    try:
        return await making.write_whole(weights)
    except BaseException:
        for blob in making.written:
            await asyncio.shield(blob.discard())
        raise


@dataclass
class _NextVersion:
    updates: RoundUpdates
    counted: Sequence[CountedUpdate]
    written: list[BlobWriter] = field(default_factory=list)

    async def run(self) -> NewVersion:
        if self.updates.is_factored:
            return await self._make_factored()
        return await self.write_whole(await new_weights(self.updates, self.counted))

    async def write_whole(self, weights: dict[str, Array]) -> NewVersion:
        await asyncio.to_thread(_refuse_overflows, weights)
        weights = await self._keep_dense_within(await self._limit(num_operations=1), weights)
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewVersion(digest, await self._write(weights))

    async def _limit(self, num_operations: int) -> MoveLimit | None:
        cap = await self.updates.largest_change()
        if math.isinf(cap):
            return None
        norms = await self.updates.base_norms()
        return MoveLimit(cap, math.hypot(*norms.values()), num_operations)

    async def _keep_dense_within(
        self, limit: MoveLimit | None, weights: dict[str, Array]
    ) -> dict[str, Array]:
        """The weights, nearer to the base if a rule made more of the changes than each of them is.

        The median of three changes may be longer than any: each element is of another client.
        """
        if limit is None:
            return weights
        base = await self.updates.read_base()
        moved = await asyncio.to_thread(_distance, weights, base)
        scale = limit.scale_for(moved)
        if scale < 1.0:
            await asyncio.to_thread(_move_towards, base, weights, scale)
            moved = await asyncio.to_thread(_distance, weights, base)
        _refuse_move(limit, moved)
        return weights

    async def _make_factored(self) -> NewVersion:
        plan = self.updates.specification.encoding
        mean = await gather_change(self.updates, self.counted)
        published = await self._publish(mean)
        del mean  # before the weights are read: each is as large
        residual = await self._write(published.residual)
        published.residual.clear()  # it is as large, too
        weights, moved = await self._advance(published.wire)
        # Two for the scale of W, two for every component.
        limit = await self._limit(num_operations=2 + 2 * plan.publish_max_rank)
        wire = published.wire
        if limit is not None:
            scale = limit.scale_for(moved)
            if scale < 1.0:
                del weights
                wire = await asyncio.to_thread(scale_wire, wire, scale)
                weights, moved = await self._advance(wire)
            _refuse_move(limit, moved)
        digest = await asyncio.to_thread(digest_arrays, weights)
        delta = await self._write(wire)
        return NewVersion(digest, await self._write(weights), delta, residual)

    async def _publish(self, mean: FactoredMean) -> PublishedDelta:
        plan = self.updates.specification.encoding
        compression = Compression(plan.wire_dtype, plan.publish_tolerance, plan.publish_max_rank)
        largest_residual = await self.updates.largest_change()
        return await asyncio.to_thread(mean.publish, compression, largest_residual)

    async def _advance(self, wire: NamedArrays) -> tuple[dict[str, Array], float]:
        """The weights with a delta applied, and by how much that moves them."""
        weights = await self.updates.read_base()
        parameters = self.updates.specification.parameters
        moved = await asyncio.to_thread(advance_weights, weights, wire, parameters)
        await asyncio.to_thread(_refuse_overflows, weights)
        return weights, moved

    async def _write(self, arrays: NamedArrays) -> BlobWriter:
        context = self.updates.context
        pieces = codec.encode_pieces(arrays)
        blob = await context.blobs.write(context.clock(), pieces)
        self.written.append(blob)
        return blob


def _refuse_overflows(weights: NamedArrays) -> None:
    for name, value in weights.items():
        refuse_overflow(name, value)


def _refuse_move(limit: MoveLimit, moved: float) -> None:
    if not moved <= limit.allowed:
        raise AggregationFailed(
            f"the weights would move by {moved:.6g}, over the policy's {limit.cap:g}"
        )


def _distance(one: NamedArrays, other: NamedArrays) -> float:
    return math.sqrt(math.fsum(squared_distance(one[name], other[name]) for name in one))


def _move_towards(base: NamedArrays, weights: dict[str, Array], scale: float) -> None:
    """Makes of each tensor W′ float32(W + ``scale``·(W′ − W)), in place."""
    for name, value in weights.items():
        start = base[name].astype(np.float64)
        weights[name] = (start + scale * (value - start)).astype(np.float32)
