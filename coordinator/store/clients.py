"""Queries on clients and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import and_, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.errors import UnknownThing
from coordinator.tables import AssignmentRow, ClientRow, FederationRow, TokenRow, UpdateRow
from shared.schema import ClientState

_SEEN_INTERVAL = timedelta(seconds=10)


class TokenKind(StrEnum):
    """What a token is for."""

    ADMIN = "admin"
    READ_ONLY = "read-only"
    ENROLMENT = "enrolment"
    CLIENT = "client"


@dataclass(frozen=True)
class TokenOwner:
    """A token's row with the client it stands for, if any."""

    token: TokenRow
    client: ClientRow | None
    federation: FederationRow | None


async def find_token(session: AsyncSession, digest: str, *kinds: TokenKind) -> TokenOwner | None:
    """The owner of the token with this SHA-256, if it is of one of these kinds."""
    row = (
        await session.execute(
            select(TokenRow, ClientRow, FederationRow)
            .outerjoin(ClientRow, TokenRow.client_id == ClientRow.id)
            .outerjoin(FederationRow, ClientRow.federation_id == FederationRow.id)
            .where(TokenRow.digest == digest, TokenRow.kind.in_(kinds))
        )
    ).one_or_none()
    return None if row is None else TokenOwner(row[0], row[1], row[2])


async def admin_token_exists(session: AsyncSession) -> bool:
    """Whether any admin token is known."""
    query = select(TokenRow.id).where(TokenRow.kind == TokenKind.ADMIN).limit(1)
    return await session.scalar(query) is not None


async def use_up_token(session: AsyncSession, token_id: int) -> bool:
    """Removes a one-time token; false if somebody else was first."""
    query = delete(TokenRow).where(TokenRow.id == token_id).returning(TokenRow.id)
    return await session.scalar(query) is not None


async def lock(session: AsyncSession, client_id: int) -> ClientRow:
    """The client as it is now; nobody changes it or its tokens until this transaction ends."""
    row = await session.scalars(
        select(ClientRow)
        .where(ClientRow.id == client_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return row.one()


def is_admitted_by(token_id: int) -> Any:
    """Condition on a client: it is enrolled, and this credential of it has not ended."""
    return and_(
        ClientRow.state == ClientState.ENROLLED,
        exists().where(TokenRow.id == token_id, TokenRow.client_id == ClientRow.id),
    )


async def is_admitted(session: AsyncSession, client_id: int, token_id: int) -> bool:
    """Whether the client is enrolled, and this credential of it has not ended."""
    query = select(ClientRow.id).where(ClientRow.id == client_id, is_admitted_by(token_id))
    return await session.scalar(query) is not None


async def begin_to_use(
    session: AsyncSession, client_id: int, token: TokenRow, now: datetime
) -> bool:
    """Notes the first use of a client's credential, which ends those issued before it.

    False if the credential was replaced meanwhile: then it ends nothing.
    """
    await lock(session, client_id)
    query = select(TokenRow.id).where(TokenRow.id == token.id)
    if await session.scalar(query) is None:
        return False
    await session.execute(
        update(TokenRow)
        .where(TokenRow.id == token.id, TokenRow.first_used_at.is_(None))
        .values(first_used_at=now)
    )
    await session.execute(
        delete(TokenRow).where(
            TokenRow.client_id == client_id,
            TokenRow.kind == TokenKind.CLIENT,
            TokenRow.id < token.id,
        )
    )
    return True


async def add_unused_credential(session: AsyncSession, token: TokenRow) -> None:
    """Adds a credential beside the one in use, in place of others that nobody used yet."""
    await session.execute(
        delete(TokenRow).where(
            TokenRow.client_id == token.client_id,
            TokenRow.kind == TokenKind.CLIENT,
            TokenRow.first_used_at.is_(None),
        )
    )
    session.add(token)


async def replace_tokens(session: AsyncSession, token: TokenRow) -> None:
    """Makes ``token`` its client's only one."""
    await session.execute(delete(TokenRow).where(TokenRow.client_id == token.client_id))
    session.add(token)


async def find(session: AsyncSession, federation: FederationRow, name: str) -> ClientRow:
    """The client called ``name``; UnknownThing if there is none."""
    row = await session.scalar(
        select(ClientRow).where(ClientRow.federation_id == federation.id, ClientRow.name == name)
    )
    if row is None:
        raise UnknownThing(f"federation {federation.name} has no client {name}", client=name)
    return row


async def find_or_add(
    session: AsyncSession, federation: FederationRow, name: str, now: datetime
) -> ClientRow:
    """The client called ``name``, invited now if it is new."""
    query = select(ClientRow).where(
        ClientRow.federation_id == federation.id, ClientRow.name == name
    )
    row = await session.scalar(query)
    if row is None:
        row = ClientRow(
            federation_id=federation.id, name=name, state=ClientState.INVITED, invited_at=now
        )
        session.add(row)
        await session.flush()
    return row


async def list_with_updates(
    session: AsyncSession, federation_id: int
) -> Sequence[tuple[ClientRow, int]]:
    """Clients in order of name, each with the number of its recorded updates."""
    rows = await session.execute(
        select(ClientRow, func.count(UpdateRow.id))
        .outerjoin(AssignmentRow, AssignmentRow.client_id == ClientRow.id)
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(ClientRow.federation_id == federation_id)
        .group_by(ClientRow.id)
        .order_by(ClientRow.name)
    )
    return [(client, count) for client, count in rows]


async def list_enrolled_names(session: AsyncSession, federation_id: int) -> Sequence[str]:
    """Names of the clients that may take part."""
    return (
        await session.scalars(
            select(ClientRow.name).where(
                ClientRow.federation_id == federation_id, ClientRow.state == ClientState.ENROLLED
            )
        )
    ).all()


async def set_state(
    session: AsyncSession, client_id: int, state: ClientState, enrolled_at: datetime | None
) -> None:
    """Writes a client's state."""
    await session.execute(
        update(ClientRow)
        .where(ClientRow.id == client_id)
        .values(state=state, enrolled_at=enrolled_at)
    )


async def delete_tokens(session: AsyncSession, client_id: int) -> None:
    """Shuts a client out, effective at once."""
    await session.execute(delete(TokenRow).where(TokenRow.client_id == client_id))


def is_worth_marking_seen(client: ClientRow, now: datetime) -> bool:
    """Whether a poll should be written down; not every poll is worth a write."""
    return client.last_seen_at is None or now - client.last_seen_at >= _SEEN_INTERVAL


async def mark_seen(session: AsyncSession, client_id: int, now: datetime) -> None:
    """Writes when a client was last heard of."""
    await session.execute(
        update(ClientRow)
        .where(
            ClientRow.id == client_id,
            or_(ClientRow.last_seen_at.is_(None), ClientRow.last_seen_at < now),
        )
        .values(last_seen_at=now)
    )
