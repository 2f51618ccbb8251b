"""Queries on the updates that clients uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.rules.phases import LIVE_PHASES
from coordinator.store.tables import AssignmentRow, BlobRow, ClientRow, RoundRow, UpdateRow


async def find(session: AsyncSession, assignment_id: int) -> UpdateRow | None:
    """The update recorded for an assignment, if any."""
    query = select(UpdateRow).where(UpdateRow.assignment_id == assignment_id)
    row: UpdateRow | None = await session.scalar(query)
    return row


async def add(session: AsyncSession, update_row: UpdateRow) -> None:
    """Records an update; IntegrityError if its assignment has one already."""
    session.add(update_row)
    await session.flush()


@dataclass(frozen=True)
class Contribution:
    """One recorded update of a round that is being aggregated."""

    client_name: str
    num_examples: int
    blob_id: int | None
    digest: str
    size_bytes: int


async def contributions(session: AsyncSession, round_id: int) -> Sequence[Contribution]:
    """A round's updates in order of client name: the order in which they are summed."""
    rows = await session.execute(
        select(
            ClientRow.name,
            UpdateRow.num_examples,
            UpdateRow.blob_id,
            UpdateRow.digest,
            UpdateRow.size_bytes,
        )
        .join(AssignmentRow, AssignmentRow.id == UpdateRow.assignment_id)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .where(AssignmentRow.round_id == round_id)
    )
    # Ordered here and not by the database, whose collation is its own.
    return sorted((Contribution(*row) for row in rows), key=lambda c: c.client_name)


async def spent_blobs(session: AsyncSession) -> Sequence[int]:
    """Blobs of updates whose round is closed: their bytes are no longer needed."""
    return (
        await session.scalars(
            select(BlobRow.id)
            .join(UpdateRow, UpdateRow.blob_id == BlobRow.id)
            .join(AssignmentRow, AssignmentRow.id == UpdateRow.assignment_id)
            .join(RoundRow, RoundRow.id == AssignmentRow.round_id)
            .where(RoundRow.phase.not_in(LIVE_PHASES))
        )
    ).all()


async def forget_blobs(session: AsyncSession, blob_ids: Sequence[int]) -> None:
    """Takes spent blobs off their updates, so that they can be deleted."""
    await session.execute(
        update(UpdateRow).where(UpdateRow.blob_id.in_(blob_ids)).values(blob_id=None)
    )
