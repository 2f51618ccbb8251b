"""A round's recorded updates, and the weights that they start from, brought out of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator import blobs, stored_updates
from coordinator.context import Context
from coordinator.row_blocks import RowBlock
from coordinator.store.updates import Contribution
from coordinator.stored_updates import StoredUpdate
from coordinator.tables import WeightsRow
from shared import codec
from shared.arrays import Array, NamedArrays
from shared.low_rank import Float64
from shared.specification import FederationSpecification


class AggregationFailed(Exception):
    """The updates cannot be aggregated; the round fails with this reason."""


@dataclass(frozen=True)
class CountedUpdate:
    """An update that counts, with its weight, and the factor that clips its change."""

    contribution: Contribution
    weight: int
    factor: float = 1.0


@dataclass(frozen=True)
class RoundUpdates:
    """The updates of one round that is being aggregated, in order of client name."""

    context: Context
    specification: FederationSpecification
    base: WeightsRow
    contributions: Sequence[Contribution]
    _opened: dict[str, StoredUpdate] = field(default_factory=dict)

    @property
    def is_factored(self) -> bool:
        """Whether the federation's encoding is: some changes may then need the base weights."""
        return self.specification.encoding.name == "factored"

    async def open(self, contribution: Contribution) -> StoredUpdate:
        """An update to read rows of; its digest is checked when it is opened first.

        Raises:
            AggregationFailed: it is damaged.
        """
        name = contribution.client_name
        if name not in self._opened:
            try:
                self._opened[name] = await StoredUpdate.open(
                    self.context.database, blob_of(contribution), contribution.digest
                )
            except (blobs.DamagedBlobError, ValueError) as error:
                raise damaged(contribution) from error
        return self._opened[name]

    async def stacks(
        self,
        counted: Sequence[CountedUpdate],
        base: NamedArrays | None,
        offsets: Mapping[str, float],
    ) -> AsyncIterator[tuple[RowBlock, Float64]]:
        """All clients' clipped changes, block by block: see :func:`stored_updates.stacks`."""
        updates = [(await self.open(one.contribution), one.factor) for one in counted]
        parameters = self.specification.parameters
        async for block, stack in stored_updates.stacks(updates, parameters, base, offsets):
            yield block, stack

    async def read_base(self) -> dict[str, Array]:
        """The weights that the round started from, for the caller to change."""
        version = self.base.version
        if self.base.blob_id is None:
            raise AggregationFailed(f"the weights of version {version} are gone")
        return await self._read_arrays(
            self.base.blob_id, f"the stored weights of version {version} are damaged"
        )

    async def read_residual(self) -> dict[str, Array]:
        """What the last published delta left out, for the caller to change."""
        if self.base.residual_blob_id is None:
            return {}
        return await self._read_arrays(
            self.base.residual_blob_id,
            f"what version {self.base.version} left for later is damaged",
        )

    async def _read_arrays(self, blob_id: int, if_damaged: str) -> dict[str, Array]:
        try:
            content = await blobs.read_whole(self.context.database, blob_id)
        except blobs.DamagedBlobError as error:
            raise AggregationFailed(if_damaged) from error
        arrays, _ = await asyncio.to_thread(codec.decode, content)
        return arrays


def blob_of(contribution: Contribution) -> int:
    """Where an update's bytes are; AggregationFailed if they are gone."""
    if contribution.blob_id is None:
        raise AggregationFailed(f"the update of client {contribution.client_name} is gone")
    return contribution.blob_id


def damaged(contribution: Contribution) -> AggregationFailed:
    """What to raise for an update whose bytes are not those that were recorded."""
    return AggregationFailed(f"the stored update of client {contribution.client_name} is damaged")
