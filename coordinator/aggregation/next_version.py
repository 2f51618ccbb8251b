"""The next version of the weights, out of the updates that count and the version before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.aggregation import robust_rules
from coordinator.aggregation.factored_mean import FactoredMean, PublishedDelta
from coordinator.aggregation.round_updates import CountedUpdate, RoundUpdates, blob_of, damaged
from coordinator.aggregation.row_blocks import RowBlock
from coordinator.aggregation.selection import common_scales
from coordinator.aggregation.weighted_mean import WeightedMean, refuse_overflow
from coordinator.errors import DamagedBlobError
from coordinator.store.blobs import BlobWriter
from shared.arrays import Array, Digest, NamedArrays, digest_arrays
from shared.rest.schema import UPDATE_METADATA_KEY, RecordedMetadata
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from shared.tensors.factored_encoding import Compression
from shared.tensors.low_rank import Float64
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
        AggregationFailed: stored bytes are damaged.
        NonFiniteError: the result exceeds float32.
    """
    making = _NextVersion(updates, counted)
    try:
        return await making.run()
    except BaseException:
        for blob in making.written:
            await asyncio.shield(blob.discard())
        raise


async def write_version(updates: RoundUpdates, weights: NamedArrays) -> NewVersion:
    """Writes whole weights, float32 by name, as the next version; nothing if that fails.

    Raises:
        NonFiniteError: a value exceeds float32.
    """
    await asyncio.to_thread(_refuse_overflows, weights)
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
        is_combined = self.updates.specification.aggregation.rule in ("median", "trimmed-mean")
        if self.updates.is_factored:
            return await (self._combine_factored() if is_combined else self._average_factored())
        weights = await (self._combine_dense() if is_combined else self._average_dense())
        return await self.write_whole(weights)

    async def write_whole(self, weights: NamedArrays) -> NewVersion:
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewVersion(digest, await self._write(weights))

    async def _average_dense(self) -> dict[str, Array]:
        mean = await asyncio.to_thread(WeightedMean, self.updates.specification.parameters)
        for one in self.counted:
            await self._stream_into(mean, one)
        base = await self.updates.read_base()
        return await asyncio.to_thread(mean.apply_to, base)

    async def _stream_into(self, mean: WeightedMean, one: CountedUpdate) -> None:
        reader = codec.StreamReader()
        digest = Digest()

        def add_piece(piece: bytes) -> None:
            digest.update(piece)
            for block in reader.feed(piece):
                mean.add_block(one.weight * one.factor, block)

        mean.add_examples(one.weight)
        async for piece in self.updates.context.blobs.read(blob_of(one.contribution)):
            try:
                await asyncio.to_thread(add_piece, piece)
            except (ValueError, KeyError) as error:  # it was checked when it came
                raise damaged(one.contribution) from error
        if str(digest) != one.contribution.digest:
            raise damaged(one.contribution)

    async def _combine_dense(self) -> dict[str, Array]:
        weights = await self.updates.read_base()
        async for block, stack in self.updates.stacks(self.counted, None, {}):
            await asyncio.to_thread(self._combine_into, weights[block.tensor.name], block, stack)
        await asyncio.to_thread(_refuse_overflows, weights)
        return weights

    def _combine_into(self, weights: Array, block: RowBlock, stack: Float64) -> None:
        block.write(weights, block.of(weights) + self._combine(stack))

    async def _average_factored(self) -> NewVersion:
        mean = await self._begin_mean(sum(one.weight for one in self.counted))
        for one in self.counted:
            content = await self._read_update(one)
            await asyncio.to_thread(self._add_factored, mean, one, content)
        published = await self._publish(mean)
        del mean  # before the weights are read: each is as large
        return await self._advance(published)

    async def _read_update(self, one: CountedUpdate) -> bytearray:
        try:
            return await self.updates.context.blobs.read_whole(blob_of(one.contribution))
        except DamagedBlobError as error:
            raise damaged(one.contribution) from error

    def _add_factored(self, mean: FactoredMean, one: CountedUpdate, content: bytearray) -> None:
        specification = self.updates.specification
        wire, metadata = codec.decode(content)
        name = RecordedMetadata.model_validate_json(metadata[UPDATE_METADATA_KEY]).encoding
        encoding = encoding_for(specification.encoding, name)
        with np.errstate(over="ignore"):  # bounded here if it is clipped, else refused by name
            changes = encoding.decode(wire, specification.parameters)
        if one.factor < 1.0:
            changes = {
                tensor: robust_rules.scale_change(change, one.factor)
                for tensor, change in changes.items()
            }
        mean.add(one.weight, changes)

    async def _combine_factored(self) -> NewVersion:
        # The rules follow a shift of all changes, so a part of W that the clients have in common
        # is published as the scale that it is, and not as components.
        offsets = await common_scales(self.updates, self.counted)
        base = await self.updates.read_base()
        mean = await self._begin_mean(1)
        for name, scale in offsets.items():
            mean.add_base(name, scale)
        async for block, stack in self.updates.stacks(self.counted, base, offsets):
            await asyncio.to_thread(self._combine_onto, mean, block, stack)
        del base
        published = await self._publish(mean)
        del mean
        return await self._advance(published)

    def _combine_onto(self, mean: FactoredMean, block: RowBlock, stack: Float64) -> None:
        mean.add_rows(block.tensor.name, block.start, self._combine(stack))

    def _combine(self, stack: Float64) -> Float64:
        plan = self.updates.specification.aggregation
        if plan.rule == "median":
            return robust_rules.coordinate_median(stack)
        return robust_rules.trimmed_mean(stack, plan.num_trimmed(len(stack)))

    async def _begin_mean(self, total_examples: int) -> FactoredMean:
        return await asyncio.to_thread(
            FactoredMean,
            self.updates.specification.parameters,
            await self.updates.read_residual(),
            total_examples,
        )

    async def _publish(self, mean: FactoredMean) -> PublishedDelta:
        plan = self.updates.specification.encoding
        compression = Compression(plan.wire_dtype, plan.publish_tolerance, plan.publish_max_rank)
        return await asyncio.to_thread(mean.publish, compression)

    async def _advance(self, published: PublishedDelta) -> NewVersion:
        residual = await self._write(published.residual)
        published.residual.clear()  # before the weights are read: it is as large
        delta = await self._write(published.wire)
        weights = await self.updates.read_base()
        parameters = self.updates.specification.parameters
        await asyncio.to_thread(advance_weights, weights, published.wire, parameters)
        await asyncio.to_thread(_refuse_overflows, weights)
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewVersion(digest, await self._write(weights), delta, residual)

    async def _write(self, arrays: NamedArrays) -> BlobWriter:
        context = self.updates.context
        pieces = codec.encode_pieces(arrays)
        blob = await context.blobs.write(context.clock(), pieces)
        self.written.append(blob)
        return blob


def _refuse_overflows(weights: NamedArrays) -> None:
    for name, value in weights.items():
        refuse_overflow(name, value)
