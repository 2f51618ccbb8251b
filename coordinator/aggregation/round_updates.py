"""A round's recorded updates, and the weights that they start from, brought out of the database."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.aggregation.row_blocks import (
    RowBlock,
    WireRows,
    num_columns,
    num_rows,
    row_blocks,
    rows_at_a_time,
)
from coordinator.aggregation.update_file import UpdateFile
from coordinator.context import Context
from coordinator.errors import AggregationFailed, DamagedBlobError
from coordinator.store.tables import WeightsRow
from coordinator.store.updates import Contribution
from shared.arrays import Array, NamedArrays
from shared.federation.initialisation import TensorSpecification
from shared.federation.specification import FederationSpecification, ParameterSpecification
from shared.tensors import codec
from shared.tensors.low_rank import Float64


@dataclass(frozen=True)
class CountedUpdate:
    """An update that counts, with its weight, and the factor that clips its change.

    Of weight 0 are updates that others were compared with, and that a rule then left out.
    """

    contribution: Contribution
    weight: int
    factor: float = 1.0


@dataclass(frozen=True)
class StackMemory:
    """What the changes of all clients may take in memory while they are compared, in bytes.

    Attributes:
        block_bytes: all clients' values in a block, in float64.
        ahead_bytes: all clients' stored rows that are read at once, so that a chunk serves several
            blocks.
    """

    block_bytes: int = 32 << 20
    ahead_bytes: int = 64 << 20


DEFAULT_MEMORY = StackMemory()

_ROUNDING = 2.0**-36
"""Relative error of a float64 sum of up to 2¹⁶ products, the most that a matrix's change has."""


@dataclass
class RoundUpdates:
    """The updates of one round that is being aggregated, in order of client name."""

    context: Context
    specification: FederationSpecification
    base: WeightsRow
    contributions: Sequence[Contribution]
    memory: StackMemory = DEFAULT_MEMORY
    _opened: dict[str, UpdateFile] = field(default_factory=dict)

    @property
    def is_factored(self) -> bool:
        """Whether the federation's encoding is: some changes may then need the base weights."""
        return self.specification.encoding.name == "factored"

    async def open(self, contribution: Contribution) -> UpdateFile:
        """An update to read rows of; its digest is checked when it is opened first.

        Raises:
            AggregationFailed: it is damaged.
        """
        name = contribution.client_name
        if name not in self._opened:
            try:
                self._opened[name] = await UpdateFile.open(
                    self.context.blobs, blob_of(contribution), contribution.digest
                )
            except (DamagedBlobError, ValueError) as error:
                raise damaged(contribution) from error
        return self._opened[name]

    async def stacks(
        self,
        counted: Sequence[CountedUpdate],
        base: NamedArrays | None,
        offsets: Mapping[str, float],
    ) -> AsyncIterator[tuple[RowBlock, Float64]]:
        """All clients' clipped changes, block by block: see :func:`stacks`."""
        updates = [(await self.open(one.contribution), one.factor) for one in counted]
        parameters = self.specification.parameters
        async for block, stack in stacks(updates, parameters, base, offsets, self.memory):
            yield block, stack

    async def read_base(self) -> dict[str, Array]:
        """The weights that the round started from: float32 by name, in the specification's shapes.

        The caller may change them.
        """
        version = self.base.version
        if self.base.blob_id is None:
            raise AggregationFailed(f"the stored weights of version {version} are missing")
        return await self._read_arrays(
            self.base.blob_id, f"the stored weights of version {version} are damaged"
        )

    async def base_norms(self) -> Mapping[str, float]:
        """The Frobenius norm of every tensor of the weights that the round started from."""
        try:
            return await self.context.weight_norms.of(self.context.blobs, self.base)
        except DamagedBlobError as error:
            raise AggregationFailed(str(error)) from error

    async def largest_change(self) -> float:
        """The norm that the policy lets a change have; infinite if it says nothing."""
        policy, parameters = self.specification.round_policy, self.specification.parameters
        cap = math.inf if policy.max_update_norm is None else policy.max_update_norm
        if policy.max_relative_norm is None:
            return cap
        base_norm = math.hypot(*(await self.base_norms()).values())
        return min(cap, policy.relative_limit(base_norm, parameters.num_elements))

    async def certified_norm(self, one: CountedUpdate, base: NamedArrays | None) -> float:
        """A number that the norm of an update's change does not exceed, however it is rounded.

        It is the norm in float64, and what float64 may have lost where components cancel.

        Raises:
            AggregationFailed: the update or the weights are damaged.
        """
        update = await self.open(one.contribution)
        parameters = self.specification.parameters
        norm = await change_norm(update, parameters, base, self.memory)
        base_norms = await self.base_norms()
        bound = await asyncio.to_thread(update.squared_norms.bound, parameters, base_norms)
        return norm + _ROUNDING * bound

    async def read_residual(self) -> dict[str, Array]:
        """What the last published delta left out: float32 by name; empty if nothing was.

        The caller may change it.
        """
        if self.base.residual_blob_id is None:
            return {}
        return await self._read_arrays(
            self.base.residual_blob_id,
            f"the stored residual of version {self.base.version} is damaged",
        )

    async def _read_arrays(self, blob_id: int, if_damaged: str) -> dict[str, Array]:
        try:
            content = await self.context.blobs.read_whole(blob_id)
        except DamagedBlobError as error:
            raise AggregationFailed(if_damaged) from error
        arrays, _ = await asyncio.to_thread(codec.decode, content)
        return arrays


def blob_of(contribution: Contribution) -> int:
    """Where an update's bytes are; AggregationFailed if they are gone."""
    if contribution.blob_id is None:
        raise AggregationFailed(
            f"the stored update of client {contribution.client_name} is missing"
        )
    return contribution.blob_id


def damaged(contribution: Contribution) -> AggregationFailed:
    """What to raise for an update whose bytes are not those that were recorded."""
    return AggregationFailed(f"the stored update of client {contribution.client_name} is damaged")


async def stacks(
    updates: Sequence[tuple[UpdateFile, float]],
    parameters: ParameterSpecification,
    base: NamedArrays | None,
    offsets: Mapping[str, float],
    memory: StackMemory = DEFAULT_MEMORY,
) -> AsyncIterator[tuple[RowBlock, Float64]]:
    """Every block of rows with all clients' changes in it, (clients, rows, columns).

    An update comes with the factor that clips it, and ``offsets``·base is taken off every change.
    ``base`` may be None where no update is factored. A stack is written over by the next.

    Raises:
        DamagedBlobError: bytes of an update are missing.
    """
    for tensor in parameters.tensors:
        length = rows_at_a_time(tensor, len(updates), memory.block_bytes)
        ahead = _rows_ahead(tensor, [update for update, _ in updates], memory.ahead_bytes)
        offset = offsets.get(tensor.name, 0.0)
        buffer = np.empty((len(updates), length, num_columns(tensor)))
        at_hand: dict[int, WireRows] = {}
        for block in row_blocks(tensor, length):
            stack = buffer[:, : block.stop - block.start]
            base_rows = None
            if base is not None:
                base_rows = await asyncio.to_thread(block.of, base[tensor.name])
            for index, (update, factor) in enumerate(updates):
                rows = at_hand.pop(index, None)
                if rows is None or rows.stop < block.stop:
                    rows = None  # freed before more is read
                    stop = min(num_rows(tensor), max(block.stop, block.start + ahead))
                    rows = await update.read(tensor, block.start, stop)
                if ahead >= length:
                    at_hand[index] = rows
                await asyncio.to_thread(
                    rows.write_into, stack[index], block, base_rows, factor, offset
                )
            yield block, stack


def _rows_ahead(
    tensor: TensorSpecification, updates: Sequence[UpdateFile], ahead_bytes: int
) -> int:
    """Rows of all updates together whose stored bytes may be in memory at once; 0 for none."""
    left = ahead_bytes - sum(update.bytes_of_all_rows(tensor) for update in updates)
    one_row = sum(update.bytes_of_a_row(tensor) for update in updates)
    if left <= 0:
        return 0
    return left // one_row if one_row else num_rows(tensor)


async def change_norm(
    update: UpdateFile,
    parameters: ParameterSpecification,
    base: NamedArrays | None,
    memory: StackMemory = DEFAULT_MEMORY,
) -> float:
    """The Frobenius norm of an update's whole change, over all shared tensors, in float64.

    ``base`` has the float32 weights that a factored change refers to; None for a dense one.

    Raises:
        DamagedBlobError: bytes of the update are missing.
    """
    squared = 0.0
    async for _, stack in stacks([(update, 1.0)], parameters, base, {}, memory):
        squared += await asyncio.to_thread(_sum_of_squares, stack)
    return math.sqrt(squared)


def _sum_of_squares(values: Float64) -> float:
    return float(np.square(values, out=values).sum())
