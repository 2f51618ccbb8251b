"""Queries on the versions of a federation's weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased

from coordinator.errors import UnknownThing
from coordinator.rules.retention import StoredVersion
from coordinator.store.tables import BlobRow, FederationRow, WeightsRow


async def publish(session: AsyncSession, weights: WeightsRow) -> None:
    """Records a version and makes it the federation's current one."""
    session.add(weights)
    await session.execute(
        update(FederationRow)
        .where(FederationRow.id == weights.federation_id)
        .values(weights_version=weights.version, failed_rounds=0)
    )


async def find(session: AsyncSession, federation_id: int, version: int) -> WeightsRow:
    """One version; UnknownThing if it was never published."""
    row = await session.scalar(
        select(WeightsRow).where(
            WeightsRow.federation_id == federation_id, WeightsRow.version == version
        )
    )
    if row is None:
        raise UnknownThing(f"there are no weights of version {version}", version=version)
    return row


async def digests(
    session: AsyncSession, federation_id: int, versions: Iterable[int | None]
) -> dict[int, str]:
    """The digest of each of some versions of the weights, those that were removed too."""
    rows = await session.execute(
        select(WeightsRow.version, WeightsRow.digest).where(
            WeightsRow.federation_id == federation_id, WeightsRow.version.in_(versions)
        )
    )
    return {row.version: row.digest for row in rows}


@dataclass(frozen=True)
class StoredDelta:
    """The bytes of the published delta that leads to ``version``."""

    version: int
    blob_id: int
    size_bytes: int
    digest: str | None


async def deltas_between(
    session: AsyncSession, federation_id: int, since: int, version: int
) -> Sequence[StoredDelta]:
    """The published deltas that are kept of those that lead from ``since`` to ``version``."""
    rows = await session.execute(
        select(WeightsRow.version, BlobRow.id, BlobRow.size_bytes, BlobRow.digest)
        .join(BlobRow, BlobRow.id == WeightsRow.delta_blob_id)
        .where(
            WeightsRow.federation_id == federation_id,
            WeightsRow.version > since,
            WeightsRow.version <= version,
        )
        .order_by(WeightsRow.version)
    )
    return [StoredDelta(*row) for row in rows]


async def list_versions(
    session: AsyncSession, federation_id: int, before: int, limit: int
) -> Sequence[tuple[int, str, datetime, int | None, int | None]]:
    """Version, digest, time, and bytes of weights and delta where they are kept; newest first."""
    whole, delta = aliased(BlobRow), aliased(BlobRow)
    rows = await session.execute(
        select(
            WeightsRow.version,
            WeightsRow.digest,
            WeightsRow.created_at,
            whole.size_bytes,
            delta.size_bytes,
        )
        .outerjoin(whole, whole.id == WeightsRow.blob_id)
        .outerjoin(delta, delta.id == WeightsRow.delta_blob_id)
        .where(WeightsRow.federation_id == federation_id, WeightsRow.version < before)
        .order_by(WeightsRow.version.desc())
        .limit(limit)
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


async def spent_residuals(session: AsyncSession) -> Sequence[int]:
    """Residual blobs of versions that are not their federation's newest."""
    spent = await session.scalars(
        select(WeightsRow.residual_blob_id)
        .join(FederationRow, FederationRow.id == WeightsRow.federation_id)
        .where(
            WeightsRow.residual_blob_id.is_not(None),
            WeightsRow.version < FederationRow.weights_version,
        )
    )
    return [blob_id for blob_id in spent if blob_id is not None]


async def forget_residuals(session: AsyncSession, blob_ids: Sequence[int]) -> None:
    """Takes spent residuals off their versions, so that they can be deleted."""
    await session.execute(
        update(WeightsRow)
        .where(WeightsRow.residual_blob_id.in_(blob_ids))
        .values(residual_blob_id=None)
    )


async def newest_versions(session: AsyncSession) -> dict[tuple[int, str], int]:
    """The newest version of every federation, by the federation's key and name."""
    rows = await session.execute(
        select(FederationRow.id, FederationRow.name, FederationRow.weights_version)
    )
    return {(key, name): version for key, name, version in rows}


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
