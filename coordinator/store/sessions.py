"""Queries on sign-ins to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.store.tables import SessionRow, TokenRow


@dataclass(frozen=True)
class SignIn:
    """A session with the token that it was opened with."""

    session: SessionRow
    token: TokenRow


# Made once: to make it takes longer than to run it, and every look at the page does.
_BY_DIGEST = (
    select(SessionRow, TokenRow)
    .join(TokenRow, TokenRow.id == SessionRow.token_id)
    .where(SessionRow.digest == bindparam("digest"))
)


async def find(session: AsyncSession, digest: str) -> SignIn | None:
    """The session whose secret has this SHA-256."""
    row = (await session.execute(_BY_DIGEST, {"digest": digest})).one_or_none()
    return None if row is None else SignIn(row[0], row[1])


async def add(session: AsyncSession, row: SessionRow, most: int) -> None:
    """Opens a session; of those of its token the newest ``most`` stay."""
    kept = (
        select(SessionRow.id)
        .where(SessionRow.token_id == row.token_id)
        .order_by(SessionRow.id.desc())
        .limit(most - 1)
    )
    await session.execute(
        delete(SessionRow).where(SessionRow.token_id == row.token_id, SessionRow.id.not_in(kept))
    )
    session.add(row)
    await session.flush()


async def list_live(session: AsyncSession, now: datetime) -> Sequence[SignIn]:
    """Those that last, newest first."""
    rows = await session.execute(
        select(SessionRow, TokenRow)
        .join(TokenRow, TokenRow.id == SessionRow.token_id)
        .where(
            SessionRow.expires_at > now,
            or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now),
        )
        .order_by(SessionRow.id.desc())
    )
    return [SignIn(opened, token) for opened, token in rows]


async def end(session: AsyncSession, session_id: int) -> bool:
    """Ends one; false if there is none of this number."""
    query = delete(SessionRow).where(SessionRow.id == session_id).returning(SessionRow.id)
    return await session.scalar(query) is not None


async def delete_expired(session: AsyncSession, now: datetime) -> int:
    """Deletes those whose time is over; how many there were."""
    query = delete(SessionRow).where(SessionRow.expires_at <= now).returning(SessionRow.id)
    return len((await session.scalars(query)).all())
