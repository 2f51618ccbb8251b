"""Brings a round's updates out of the database through the aggregation, and its result back in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from coordinator import blobs
from coordinator.aggregation import WeightedMean, refuse_overflow
from coordinator.blobs import BlobWriter
from coordinator.context import Context
from coordinator.factored_aggregation import FactoredMean, PublishedDelta
from coordinator.intake import METADATA_KEY
from coordinator.store import federations as federation_store
from coordinator.store import rounds as store
from coordinator.store.rounds import Contribution
from coordinator.tables import FederationRow, RoundRow, WeightsRow
from shared import codec
from shared.arrays import Array, NamedArrays, digest_arrays
from shared.encodings import encoding_for
from shared.factored_encoding import Compression
from shared.schema import TaskKind, UpdateMetadata
from shared.specification import FederationSpecification
from shared.version_deltas import advance_weights


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
            if self.specification.encoding.name == "dense":
                return await self._aggregate_dense()
            return await self._aggregate_factored()
        except BaseException:
            for blob in self.written:
                await asyncio.shield(blob.discard())
            raise

    async def _write(self, arrays: NamedArrays) -> BlobWriter:
        pieces = codec.encode_pieces(arrays)
        blob = await BlobWriter.write(self.context.database, self.context.clock(), pieces)
        self.written.append(blob)
        return blob

    async def _aggregate_dense(self) -> NewWeights:
        mean = WeightedMean(self.specification.parameters)
        for contribution in self.contributions:
            await self._stream_into(mean, contribution)
            await self._keep_lease()
        base = await self._read_base()
        weights = await asyncio.to_thread(mean.apply_to, base)
        del base
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewWeights(digest, await self._write(weights))

    async def _stream_into(self, mean: WeightedMean, contribution: Contribution) -> None:
        reader = codec.StreamReader()
        state = hashlib.sha256()

        def add_piece(piece: bytes) -> None:
            state.update(piece)
            for block in reader.feed(piece):
                mean.add_block(contribution.num_examples, block)

        mean.add_examples(contribution.num_examples)
        async for piece in blobs.read(self.context.database, _blob_of(contribution)):
            try:
                await asyncio.to_thread(add_piece, piece)
            except (ValueError, KeyError) as error:  # it was checked when it came
                raise _damaged(contribution) from error
        _check_digest(contribution, f"sha256:{state.hexdigest()}")

    async def _aggregate_factored(self) -> NewWeights:
        plan = self.specification.encoding
        parameters = self.specification.parameters
        residual: dict[str, Array] = {}
        if self.base.residual_blob_id is not None:
            try:
                content = await blobs.read_whole(self.context.database, self.base.residual_blob_id)
            except blobs.DamagedBlobError as error:
                raise AggregationFailed(
                    f"what version {self.base.version} left for later is damaged"
                ) from error
            residual, _ = codec.decode(content)
        total = sum(contribution.num_examples for contribution in self.contributions)
        mean = FactoredMean(parameters, residual, total)
        for contribution in self.contributions:
            try:
                content = await blobs.read_whole(self.context.database, _blob_of(contribution))
            except blobs.DamagedBlobError as error:
                raise _damaged(contribution) from error
            await asyncio.to_thread(self._add_factored, mean, contribution, content)
            await self._keep_lease()
        compression = Compression(plan.wire_dtype, plan.publish_tolerance, plan.publish_max_rank)
        published: PublishedDelta = await asyncio.to_thread(mean.publish, compression)
        new_residual = await self._write(published.residual)
        published.residual.clear()
        del mean, residual  # before the weights are read: each is as large
        delta = await self._write(published.wire)
        weights = await self._read_base()
        await asyncio.to_thread(advance_weights, weights, published.wire, parameters)
        for name, value in weights.items():
            refuse_overflow(name, value)
        digest = await asyncio.to_thread(digest_arrays, weights)
        return NewWeights(digest, await self._write(weights), delta, new_residual)

    def _add_factored(
        self, mean: FactoredMean, contribution: Contribution, content: bytearray
    ) -> None:
        wire, metadata = codec.decode(content)
        name = UpdateMetadata.model_validate_json(metadata[METADATA_KEY]).encoding
        encoding = encoding_for(self.specification.encoding, name)
        mean.add(contribution.num_examples, encoding.decode(wire, self.specification.parameters))

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
