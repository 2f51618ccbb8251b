"""What a round of a factored federation changes: of factors, or of what was compared.

Factors are averaged in float32 only where nothing was measured or compared before: components that
cancel in float64 need not cancel in float32.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from coordinator.aggregation import robust_rules
from coordinator.aggregation.factored_mean import FactoredMean
from coordinator.aggregation.round_updates import CountedUpdate, RoundUpdates, blob_of, damaged
from coordinator.aggregation.row_blocks import RowBlock
from coordinator.aggregation.selection import common_scales
from coordinator.errors import DamagedBlobError
from shared.rest.schema import UPDATE_METADATA_KEY, RecordedMetadata
from shared.tensors import codec
from shared.tensors.encodings import encoding_for
from shared.tensors.low_rank import Float64


async def gather_change(updates: RoundUpdates, counted: Sequence[CountedUpdate]) -> FactoredMean:
    """The round's change and what the last published delta left out, to be published.

    Raises:
        AggregationFailed: stored bytes are damaged.
    """
    specification = updates.specification
    nothing_was_compared = (
        specification.aggregation.rule == "mean"
        and specification.round_policy.max_update_norm is None
    )
    return await (_average if nothing_was_compared else _combine)(updates, counted)


async def _average(updates: RoundUpdates, counted: Sequence[CountedUpdate]) -> FactoredMean:
    mean = await _begin(updates, sum(one.weight for one in counted))
    # The next update is read while the last one is added.
    ahead = asyncio.create_task(_read(updates, counted[0]))
    try:
        for one, following in zip_longest(counted, counted[1:]):
            content = await ahead
            if following is not None:
                ahead = asyncio.create_task(_read(updates, following))
            await asyncio.to_thread(_add, updates, mean, one.weight, content)
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
    return mean


async def _read(updates: RoundUpdates, one: CountedUpdate) -> bytearray:
    try:
        return await updates.context.blobs.read_whole(blob_of(one.contribution))
    except DamagedBlobError as error:
        raise damaged(one.contribution) from error


def _add(updates: RoundUpdates, mean: FactoredMean, weight: int, content: bytearray) -> None:
    specification = updates.specification
    wire, metadata = codec.decode(content)
    name = RecordedMetadata.model_validate_json(metadata[UPDATE_METADATA_KEY]).encoding
    encoding = encoding_for(specification.encoding, name)
    with np.errstate(over="ignore"):  # publishing refuses it by name
        mean.add(weight, encoding.decode(wire, specification.parameters))


async def _combine(updates: RoundUpdates, counted: Sequence[CountedUpdate]) -> FactoredMean:
    """As float64 has it, of the list and with the offsets that the clients were compared with."""
    offsets = await common_scales(updates, counted)
    base = await updates.read_base()
    mean = await _begin(updates, 1)
    shares = [one.weight for one in counted]
    plan = updates.specification.aggregation
    # The rules follow a shift of all changes, so a part of W that the clients have in common
    # is published as the scale that it is, and not as components.
    for name, scale in offsets.items():
        mean.add_base(name, scale)

    def combine_onto(block: RowBlock, stack: Float64) -> None:
        combined = robust_rules.combine(plan, shares, stack)
        mean.add_rows(block.tensor.name, block.start, combined)

    async for block, stack in updates.stacks(counted, base, offsets):
        await asyncio.to_thread(combine_onto, block, stack)
    return mean


async def _begin(updates: RoundUpdates, total_examples: int) -> FactoredMean:
    return await asyncio.to_thread(
        FactoredMean,
        updates.specification.parameters,
        await updates.read_residual(),
        total_examples,
    )
