"""Brings a round's updates out of the database through the aggregation, and its result back in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog

from coordinator import blobs, robust_aggregation
from coordinator.aggregation import WeightedMean, refuse_overflow
from coordinator.blobs import BlobWriter
from coordinator.context import Context
from coordinator.factored_aggregation import FactoredMean, PublishedDelta
from coordinator.intake import METADATA_KEY
from coordinator.store import federations as federation_store
from coordinator.store import rounds as store
from coordinator.store.rounds import Contribution
from coordinator.stored_updates import (
    RowBlock,
    StoredUpdate,
    change_norm,
    num_columns,
    row_blocks,
)
from coordinator.tables import FederationRow, RoundRow, WeightsRow
from shared import codec
from shared.arrays import Array, NamedArrays, digest_arrays
from shared.encodings import encoding_for
from shared.factored_encoding import Compression, is_matrix
from shared.low_rank import Float64
from shared.schema import TaskKind, UpdateMetadata
from shared.specification import FederationSpecification
from shared.version_deltas import advance_weights

_log = structlog.get_logger()


class AggregationFailed(Exception):
    """The updates cannot be aggregated; the round fails with this reason."""


class AggregationLeaseLost(Exception):
    """Another coordinator took the round over."""


@dataclass(frozen=True)
class NewWeights:
    """The next version: its digest, its file, and in a factored federation how it came about."""

    digest: str
    weights: BlobWriter
    delta: BlobWriter | None = None
    residual: BlobWriter | None = None

    @property
    def blobs(self) -> list[BlobWriter]:
        """Everything that was written."""
        return [blob for blob in (self.weights, self.delta, self.residual) if blob is not None]


@dataclass(frozen=True)
class _Counted:
    """An update with its weight, and the factor that clips its change."""

    contribution: Contribution
    weight: int
    factor: float = 1.0


@dataclass(frozen=True)
class AggregatedRound:
    """What a round comes to; ``new`` is None if it trained nothing."""

    num_updates: int
    new: NewWeights | None


async def aggregate(
    context: Context,
    federation: FederationRow,
    round_: RoundRow,
    extend_lease: Callable[[], Awaitable[bool]],
) -> AggregatedRound:
    """Aggregates every recorded update in order of client name, one in memory at a time.

    ``extend_lease`` is called between updates; when it answers false the work is dropped.

    Raises:
        AggregationFailed: stored bytes are damaged, or the result exceeds float32.
        AggregationLeaseLost: the round is no longer ours.
    """
    async with context.database.reading() as session:
        contributions = await store.contributions(session, round_.id)
        base = await federation_store.find_weights(session, federation.id, round_.base_version)
    if round_.kind == TaskKind.EVALUATE:
        return AggregatedRound(len(contributions), None)
    round_of_updates = _Round(
        context, context.specification(federation), base, contributions, extend_lease
    )
    try:
        return AggregatedRound(len(contributions), await round_of_updates.aggregate())
    except (codec.NonFiniteError, blobs.DamagedBlobError) as error:
        raise AggregationFailed(str(error)) from error


@dataclass(frozen=True)
class _Round:
    context: Context
    specification: FederationSpecification
    base: WeightsRow
    contributions: Sequence[Contribution]
    extend_lease: Callable[[], Awaitable[bool]]
    written: list[BlobWriter] = field(default_factory=list)

    async def aggregate(self) -> NewWeights:
        try:
            counted = await self._choose(await self._limit())
            if self.specification.aggregation.rule in ("median", "trimmed-mean"):
                if self._is_factored:
                    return await self._combine_factored(counted)
                return await self._combine_dense(counted)
            if self._is_factored:
                return await self._average_factored(counted)
            return await self._average_dense(counted)
        except BaseException:
            for blob in self.written:
                await asyncio.shield(blob.discard())
            raise

    async def _limit(self) -> list[_Counted]:
        """The updates with their weights, those over the policy's norm clipped or left out."""
        policy = self.specification.round_policy
        counted = [
            _Counted(one, min(one.num_examples, policy.max_examples_weight or one.num_examples))
            for one in self.contributions
        ]
        if policy.max_update_norm is None:
            return counted
        base = await self._read_base() if self._is_factored else None
        limited = []
        for one in counted:
            update = await self._open(one)
            norm = await change_norm(update, self.specification.parameters, base)
            await self._keep_lease()
            factor = robust_aggregation.clip_factor(norm, policy.max_update_norm)
            # Dense updates were judged when they came, by a sum in another order.
            if factor == 1.0 or (policy.on_excess == "reject" and not update.is_factored):
                limited.append(one)
                continue
            _log.warning(
                "update over the norm",
                federation=self.specification.name,
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

    async def _choose(self, counted: list[_Counted]) -> list[_Counted]:
        """The updates that the rule averages or combines, with their weights."""
        plan = self.specification.aggregation
        if plan.rule == "mean":
            return counted
        if len(counted) < plan.fewest_updates:
            raise AggregationFailed(
                f"aggregation {plan.rule} needs {plan.fewest_updates} updates, not {len(counted)}"
            )
        counted = [replace(one, weight=1) for one in counted]
        if plan.hostile_clients is None:
            return counted
        distances = robust_aggregation.SquaredDistances(len(counted))
        base = await self._read_base() if self._is_factored else None
        updates = [await self._open(one) for one in counted]
        offsets = self._common_scales(counted, updates)
        async for _, stack in self._stacks(counted, updates, base, offsets):
            await asyncio.to_thread(distances.add, stack)
        chosen = robust_aggregation.choose_multi_krum(distances.matrix, plan.hostile_clients)
        return [counted[index] for index in chosen]

    async def _stacks(
        self,
        counted: Sequence[_Counted],
        updates: Sequence[StoredUpdate],
        base: NamedArrays | None,
        offsets: Mapping[str, float],
    ) -> AsyncIterator[tuple[RowBlock, Float64]]:
        """Every block of rows with all clients' changes in it, (clients, rows, columns)."""
        for block in row_blocks(self.specification.parameters, len(updates)):
            base_rows = None if base is None else block.of(base[block.tensor.name])
            offset = offsets.get(block.tensor.name, 0.0)
            stack = np.empty((len(updates), block.stop - block.start, num_columns(block.tensor)))
            for rows, one, update in zip(stack, counted, updates, strict=True):
                rows[:] = await update.rows(block, base_rows, factor=one.factor, offset=offset)
            yield block, stack
            await self._keep_lease()

    async def _write(self, arrays: NamedArrays) -> BlobWriter:
        pieces = codec.encode_pieces(arrays)
        blob = await BlobWriter.write(self.context.database, self.context.clock(), pieces)
        self.written.append(blob)
        return blob

    async def _average_dense(self, counted: Sequence[_Counted]) -> NewWeights:
        mean = WeightedMean(self.specification.parameters)
        for one in counted:
            await self._stream_into(mean, one)
            await self._keep_lease()
        base = await self._read_base()
        weights = await asyncio.to_thread(mean.apply_to, base)
        del base
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewWeights(digest, await self._write(weights))

    async def _stream_into(self, mean: WeightedMean, one: _Counted) -> None:
        reader = codec.StreamReader()
        state = hashlib.sha256()

        def add_piece(piece: bytes) -> None:
            state.update(piece)
            for block in reader.feed(piece):
                mean.add_block(one.weight * one.factor, block)

        mean.add_examples(one.weight)
        async for piece in blobs.read(self.context.database, _blob_of(one.contribution)):
            try:
                await asyncio.to_thread(add_piece, piece)
            except (ValueError, KeyError) as error:  # it was checked when it came
                raise _damaged(one.contribution) from error
        _check_digest(one.contribution, f"sha256:{state.hexdigest()}")

    async def _average_factored(self, counted: Sequence[_Counted]) -> NewWeights:
        total = sum(one.weight for one in counted)
        mean = FactoredMean(self.specification.parameters, await self._read_residual(), total)
        for one in counted:
            try:
                content = await blobs.read_whole(self.context.database, _blob_of(one.contribution))
            except blobs.DamagedBlobError as error:
                raise _damaged(one.contribution) from error
            await asyncio.to_thread(self._add_factored, mean, one, content)
            await self._keep_lease()
        published = await self._publish(mean)
        residual = await self._write_residual(published)
        del mean  # before the weights are read: each is as large
        return await self._advance(published, residual)

    def _add_factored(self, mean: FactoredMean, one: _Counted, content: bytearray) -> None:
        wire, metadata = codec.decode(content)
        name = UpdateMetadata.model_validate_json(metadata[METADATA_KEY]).encoding
        encoding = encoding_for(self.specification.encoding, name)
        with np.errstate(over="ignore"):  # bounded here if it is clipped, else refused by name
            changes = encoding.decode(wire, self.specification.parameters)
        if one.factor < 1.0:
            changes = {
                tensor: robust_aggregation.scale_change(change, one.factor)
                for tensor, change in changes.items()
            }
        mean.add(one.weight, changes)

    async def _combine_dense(self, counted: Sequence[_Counted]) -> NewWeights:
        updates = [await self._open(one) for one in counted]
        weights = await self._read_base()
        async for block, stack in self._stacks(counted, updates, None, {}):
            combined = await asyncio.to_thread(self._combine, stack)
            combined += block.of(weights[block.tensor.name])
            block.write(weights[block.tensor.name], combined)
        for name, value in weights.items():
            refuse_overflow(name, value)
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewWeights(digest, await self._write(weights))

    async def _combine_factored(self, counted: Sequence[_Counted]) -> NewWeights:
        # The rules follow a shift of all changes, so a part of W that the clients have in common
        # is published as the scale that it is, and not as components.
        updates = [await self._open(one) for one in counted]
        base = await self._read_base()
        offsets = self._common_scales(counted, updates)
        mean = FactoredMean(self.specification.parameters, await self._read_residual(), 1)
        for name, scale in offsets.items():
            mean.add_base(name, scale)
        async for block, stack in self._stacks(counted, updates, base, offsets):
            combined = await asyncio.to_thread(self._combine, stack)
            mean.add_rows(block.tensor.name, block.start, combined)
        del base
        published = await self._publish(mean)
        residual = await self._write_residual(published)
        del mean
        return await self._advance(published, residual)

    def _combine(self, stack: Float64) -> Float64:
        plan = self.specification.aggregation
        if plan.rule == "median":
            return robust_aggregation.coordinate_median(stack)
        return robust_aggregation.trimmed_mean(stack, plan.num_trimmed(len(stack)))

    def _common_scales(
        self, counted: Sequence[_Counted], updates: Sequence[StoredUpdate]
    ) -> dict[str, float]:
        """For every matrix the median of the clients' scales of W, as float32 can hold it."""
        if not self._is_factored:
            return {}
        return {
            tensor.name: float(
                np.float32(
                    np.median(
                        [
                            one.factor * update.base_scale(tensor)
                            for one, update in zip(counted, updates, strict=True)
                        ]
                    )
                )
            )
            for tensor in self.specification.parameters.tensors
            if is_matrix(tensor)
        }

    @property
    def _is_factored(self) -> bool:
        return self.specification.encoding.name == "factored"

    async def _open(self, one: _Counted) -> StoredUpdate:
        try:
            return await StoredUpdate.open(
                self.context.database, _blob_of(one.contribution), one.contribution.digest
            )
        except (blobs.DamagedBlobError, ValueError) as error:
            raise _damaged(one.contribution) from error

    async def _read_residual(self) -> dict[str, Array]:
        """What the last published delta left out, for the caller to change."""
        if self.base.residual_blob_id is None:
            return {}
        try:
            content = await blobs.read_whole(self.context.database, self.base.residual_blob_id)
        except blobs.DamagedBlobError as error:
            raise AggregationFailed(
                f"what version {self.base.version} left for later is damaged"
            ) from error
        residual, _ = await asyncio.to_thread(codec.decode, content)
        return residual

    async def _publish(self, mean: FactoredMean) -> PublishedDelta:
        plan = self.specification.encoding
        compression = Compression(plan.wire_dtype, plan.publish_tolerance, plan.publish_max_rank)
        return await asyncio.to_thread(mean.publish, compression)

    async def _write_residual(self, published: PublishedDelta) -> BlobWriter:
        """Writes what is left out, and frees it: it is as large as the weights."""
        residual = await self._write(published.residual)
        published.residual.clear()
        return residual

    async def _advance(self, published: PublishedDelta, residual: BlobWriter) -> NewWeights:
        parameters = self.specification.parameters
        delta = await self._write(published.wire)
        weights = await self._read_base()
        await asyncio.to_thread(advance_weights, weights, published.wire, parameters)
        for name, value in weights.items():
            refuse_overflow(name, value)
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewWeights(digest, await self._write(weights), delta, residual)

    async def _keep_lease(self) -> None:
        if not await self.extend_lease():
            raise AggregationLeaseLost

    async def _read_base(self) -> dict[str, Array]:
        """The weights that the round started from, for the caller to change."""
        if self.base.blob_id is None:
            raise AggregationFailed(f"the weights of version {self.base.version} are gone")
        try:
            content = await blobs.read_whole(self.context.database, self.base.blob_id)
        except blobs.DamagedBlobError as error:
            raise AggregationFailed(
                f"the stored weights of version {self.base.version} are damaged"
            ) from error
        arrays, _ = await asyncio.to_thread(codec.decode, content)
        return arrays


def _blob_of(contribution: Contribution) -> int:
    if contribution.blob_id is None:
        raise AggregationFailed(f"the update of client {contribution.client_name} is gone")
    return contribution.blob_id


def _check_digest(contribution: Contribution, digest: str) -> None:
    if digest != contribution.digest:
        raise _damaged(contribution)


def _damaged(contribution: Contribution) -> AggregationFailed:
    return AggregationFailed(f"the stored update of client {contribution.client_name} is damaged")
