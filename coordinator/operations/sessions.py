"""Sign-ins to the page: begin with a token, list, end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from coordinator.access.credentials import new_session_secret, token_digest
from coordinator.access.identity import Admin, Visitor, identify_administrator
from coordinator.context import Context
from coordinator.errors import UnknownThing
from coordinator.store import sessions as store
from coordinator.store.tables import SessionRow
from coordinator.store.tokens import TokenKind

MOST_PER_TOKEN = 50
"""One more ends the oldest: whoever may only look cannot fill the disk."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class SessionView:
    """A sign-in as administrators see it."""

    id: int
    token: str
    may_write: bool
    address: str
    created_at: datetime
    expires_at: datetime


async def sign_in(context: Context, token: str, address: str) -> Visitor:
    """Opens a session for an administrator's or reader's token; its secret is known only here.

    It lasts as long as the settings say, and no longer than the token.

    Raises:
        Unauthenticated: the token is unknown, revoked or expired, or is a client's.
    """
    admin, row = await identify_administrator(context, token)
    secret, now = new_session_secret(), context.clock()
    expires_at = now + timedelta(seconds=context.settings.page_session_seconds)
    if row.expires_at is not None:
        expires_at = min(expires_at, row.expires_at)
    opened = SessionRow(
        digest=token_digest(secret),
        token_id=row.id,
        address=address,
        created_at=now,
        expires_at=expires_at,
    )
    async with context.database.writing() as session:
        await store.delete_expired(session, now)
        await store.add(session, opened, MOST_PER_TOKEN)
    _log.info("session opened", token=admin.name)
    return Visitor(admin, opened.id, secret, expires_at)


async def list_all(context: Context) -> list[SessionView]:
    """Every session that lasts, newest first."""
    async with context.database.reading() as session:
        found = await store.list_live(session, context.clock())
    return [
        SessionView(
            id=one.session.id,
            token=one.token.name or "",
            may_write=one.token.kind == TokenKind.ADMIN,
            address=one.session.address,
            created_at=one.session.created_at,
            expires_at=min(one.session.expires_at, one.token.expires_at or one.session.expires_at),
        )
        for one in found
    ]


async def end(context: Context, admin: Admin, session_id: int) -> None:
    """Ends a session at once.

    Raises:
        UnknownThing: there is none of this number; it may have ended by itself.
    """
    async with context.database.writing() as session:
        if not await store.end(session, session_id):
            raise UnknownThing(f"there is no session {session_id}", session=session_id)
    _log.info("session ended", session=session_id, by=admin.name)
