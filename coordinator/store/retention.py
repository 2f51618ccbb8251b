"""Queries on versions whose bytes are still kept."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from coordinator.retained import StoredVersion
from coordinator.tables import BlobRow, FederationRow, WeightsRow


async def newest_versions(session: AsyncSession) -> dict[int, int]:
    """The newest version of every federation, by the federation's key."""
    rows = await session.execute(select(FederationRow.id, FederationRow.weights_version))
    return {row[0]: row[1] for row in rows}


async def kept_weights(session: AsyncSession, federation_id: int) -> Sequence[StoredVersion]:
    """Versions whose whole weights are kept, oldest first."""
    return await _kept(session, federation_id, WeightsRow.blob_id)


async def kept_deltas(session: AsyncSession, federation_id: int) -> Sequence[StoredVersion]:
    """Versions whose published delta is kept, oldest first."""
    return await _kept(session, federation_id, WeightsRow.delta_blob_id)


async def _kept(
    session: AsyncSession, federation_id: int, blob_id: InstrumentedAttribute[int | None]
) -> Sequence[StoredVersion]:
    rows = await session.execute(
        select(WeightsRow.version, BlobRow.id, BlobRow.size_bytes)
        .join(BlobRow, BlobRow.id == blob_id)
        .where(WeightsRow.federation_id == federation_id)
        .order_by(WeightsRow.version)
    )
    return [StoredVersion(*row) for row in rows]


async def forget(session: AsyncSession, blob_id: int) -> None:
    """Takes weights or a delta off its version, so that its bytes can be deleted."""
    for column in (WeightsRow.blob_id, WeightsRow.delta_blob_id):
        await session.execute(update(WeightsRow).where(column == blob_id).values({column: None}))
