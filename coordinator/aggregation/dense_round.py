"""New weights of a federation whose updates are dense: every change as it was sent, in float64."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.aggregation import robust_rules
from coordinator.aggregation.round_updates import CountedUpdate, RoundUpdates, blob_of, damaged
from coordinator.aggregation.row_blocks import RowBlock
from coordinator.aggregation.weighted_mean import WeightedMean
from shared.arrays import Array, Digest
from shared.tensors import codec
from shared.tensors.low_rank import Float64


async def new_weights(updates: RoundUpdates, counted: Sequence[CountedUpdate]) -> dict[str, Array]:
    """float32(base + what the rule makes of the changes), by name, in the specification's shapes.

    Raises:
        AggregationFailed: stored bytes are damaged.
        NonFiniteError: a mean exceeds float32; another rule's result is then infinite.
    """
    if updates.specification.aggregation.rule in ("median", "trimmed-mean"):
        return await _combine(updates, counted)
    mean = await asyncio.to_thread(WeightedMean, updates.specification.parameters)
    for one in counted:
        if one.weight:
            await _stream_into(mean, updates, one)
    base = await updates.read_base()
    return await asyncio.to_thread(mean.apply_to, base)


async def _stream_into(mean: WeightedMean, updates: RoundUpdates, one: CountedUpdate) -> None:
    reader = codec.StreamReader()
    digest = Digest()

    def add_piece(piece: bytes) -> None:
        digest.update(piece)
        for block in reader.feed(piece):
            mean.add_block(one.weight * one.factor, block)

    mean.add_examples(one.weight)
    async for piece in updates.context.blobs.read(blob_of(one.contribution)):
        try:
            await asyncio.to_thread(add_piece, piece)
        except (ValueError, KeyError) as error:  # it was checked when it came
            raise damaged(one.contribution) from error
    if str(digest) != one.contribution.digest:
        raise damaged(one.contribution)


async def _combine(updates: RoundUpdates, counted: Sequence[CountedUpdate]) -> dict[str, Array]:
    weights = await updates.read_base()
    shares = [one.weight for one in counted]
    plan = updates.specification.aggregation

    def combine_into(block: RowBlock, stack: Float64) -> None:
        array = weights[block.tensor.name]
        block.write(array, block.of(array) + robust_rules.combine(plan, shares, stack))

    async for block, stack in updates.stacks(counted, None, {}):
        await asyncio.to_thread(combine_into, block, stack)
    return weights
