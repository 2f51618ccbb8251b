"""Queries on federations and their weights versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.errors import UnknownThing
from coordinator.rounds import Transition
from coordinator.tables import BlobRow, ClientRow, FederationRow, RoundRow, WeightsRow
from shared.schema import ClientState, FederationState, RoundPhase, TaskKind


async def find_by_name(session: AsyncSession, name: str) -> FederationRow:
    """The federation called ``name``; UnknownThing if there is none."""
    row = await session.scalar(select(FederationRow).where(FederationRow.name == name))
    if row is None:
        raise UnknownThing(f"there is no federation {name}", federation=name)
    return row


async def get(session: AsyncSession, federation_id: int) -> FederationRow:
    """The federation with this key."""
    return await session.get_one(FederationRow, federation_id)


async def list_all(session: AsyncSession) -> Sequence[FederationRow]:
    """All federations, in order of name."""
    return (await session.scalars(select(FederationRow).order_by(FederationRow.name))).all()


async def list_running(session: AsyncSession) -> Sequence[int]:
    """Keys of the federations that have work to do."""
    return (
        await session.scalars(
            select(FederationRow.id)
            .where(FederationRow.state == FederationState.RUNNING)
            .order_by(FederationRow.id)
        )
    ).all()


async def move(
    session: AsyncSession,
    federation_id: int,
    transition: Transition[FederationState],
    **values: Any,
) -> bool:
    """Applies a transition if the state allows it; ``values`` are written with it."""
    moved = await session.scalar(
        update(FederationRow)
        .where(FederationRow.id == federation_id, FederationRow.state.in_(transition.sources))
        .values(state=transition.target, **values)
        .returning(FederationRow.id)
    )
    return moved is not None


async def lock(session: AsyncSession, federation_id: int) -> None:
    """Keeps everyone else from changing the federation until this transaction ends."""
    await session.execute(
        select(FederationRow.id)
        .where(FederationRow.id == federation_id)
        .with_for_update(key_share=True)
    )


async def lock_running(session: AsyncSession, federation_id: int) -> bool:
    """Whether the federation runs, and goes on running until this transaction ends."""
    running = await session.scalar(
        update(FederationRow)
        .where(FederationRow.id == federation_id, FederationRow.state == FederationState.RUNNING)
        .values(state=FederationState.RUNNING)
        .returning(FederationRow.id)
    )
    return running is not None


async def set_reason(session: AsyncSession, federation_id: int, reason: str | None) -> bool:
    """Says why a running federation waits; true if that is news."""
    changed = await session.scalar(
        update(FederationRow)
        .where(
            FederationRow.id == federation_id,
            FederationRow.state == FederationState.RUNNING,
            or_(
                FederationRow.reason.is_distinct_from(reason),
            ),
        )
        .values(reason=reason)
        .returning(FederationRow.id)
    )
    return changed is not None


async def count_failed_round(session: AsyncSession, federation_id: int) -> None:
    """One more failed round since the last committed one."""
    await session.execute(
        update(FederationRow)
        .where(FederationRow.id == federation_id)
        .values(failed_rounds=FederationRow.failed_rounds + 1)
    )


async def publish_weights(session: AsyncSession, weights: WeightsRow) -> None:
    """Records a version and makes it the federation's current one."""
    session.add(weights)
    await session.execute(
        update(FederationRow)
        .where(FederationRow.id == weights.federation_id)
        .values(weights_version=weights.version, failed_rounds=0)
    )


async def find_weights(session: AsyncSession, federation_id: int, version: int) -> WeightsRow:
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


@dataclass(frozen=True)
class Progress:
    """What lists and next steps need to know of a federation beside its own row."""

    weights_digest: str
    enrolled_clients: int
    live_round_number: int | None
    final_evaluation_done: bool
    last_failure: str | None
    """Why the newest round failed, if it did."""


async def progress(session: AsyncSession, federation: FederationRow) -> Progress:
    """Counts and the live round of one federation."""
    digest = (
        await session.scalars(
            select(WeightsRow.digest).where(
                WeightsRow.federation_id == federation.id,
                WeightsRow.version == federation.weights_version,
            )
        )
    ).one()
    enrolled = await session.scalar(
        select(func.count())
        .select_from(ClientRow)
        .where(ClientRow.federation_id == federation.id, ClientRow.state == ClientState.ENROLLED)
    )
    live = await session.scalar(
        select(RoundRow.number).where(
            RoundRow.federation_id == federation.id,
            RoundRow.phase.in_([RoundPhase.OPEN, RoundPhase.AGGREGATING]),
        )
    )
    evaluated = await session.scalar(
        select(RoundRow.id)
        .where(
            RoundRow.federation_id == federation.id,
            RoundRow.kind == TaskKind.EVALUATE,
            RoundRow.phase == RoundPhase.COMMITTED,
        )
        .limit(1)
    )
    newest = await session.execute(
        select(RoundRow.phase, RoundRow.reason)
        .where(RoundRow.federation_id == federation.id)
        .order_by(RoundRow.number.desc())
        .limit(1)
    )
    phase, reason = newest.one_or_none() or (None, None)
    last_failure = reason if phase == RoundPhase.FAILED else None
    return Progress(digest, enrolled or 0, live, evaluated is not None, last_failure)


async def activity(session: AsyncSession) -> Sequence[tuple[int, str, int | None]]:
    """(key, state, newest round) of every federation: what long polls wait to see change."""
    rows = await session.execute(
        select(FederationRow.id, FederationRow.state, func.max(RoundRow.number))
        .outerjoin(RoundRow, RoundRow.federation_id == FederationRow.id)
        .group_by(FederationRow.id, FederationRow.state)
    )
    return [(key, state, number) for key, state, number in rows]


def is_over(state: str) -> bool:
    """Whether a federation in this state has ended for good."""
    return state in (FederationState.FINISHED, FederationState.FAILED)


async def touch_started(session: AsyncSession, federation_id: int, now: datetime) -> None:
    """Records the first start."""
    await session.execute(
        update(FederationRow)
        .where(FederationRow.id == federation_id, FederationRow.started_at.is_(None))
        .values(started_at=now)
    )
