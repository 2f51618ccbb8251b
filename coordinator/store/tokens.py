"""Queries on the tokens of administrators, which have names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.store.tables import ClientRow, FederationRow, TokenRow


async def list_named(session: AsyncSession) -> Sequence[TokenRow]:
    """All of them, in order of name."""
    query = select(TokenRow).where(TokenRow.name.is_not(None)).order_by(TokenRow.name)
    return (await session.scalars(query)).all()


async def delete_named(session: AsyncSession, name: str) -> bool:
    """Removes a token; false if there is none of this name."""
    query = delete(TokenRow).where(TokenRow.name == name).returning(TokenRow.id)
    return await session.scalar(query) is not None


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


# Made once: to make it takes longer than to run it, and every request does.
_OWNER = (
    select(TokenRow, ClientRow, FederationRow)
    .outerjoin(ClientRow, TokenRow.client_id == ClientRow.id)
    .outerjoin(FederationRow, ClientRow.federation_id == FederationRow.id)
    .where(
        TokenRow.digest == bindparam("digest"),
        TokenRow.kind.in_(bindparam("kinds", expanding=True)),
    )
)


async def find_token(session: AsyncSession, digest: str, *kinds: TokenKind) -> TokenOwner | None:
    """The owner of the token with this SHA-256, if it is of one of these kinds."""
    row = (await session.execute(_OWNER, {"digest": digest, "kinds": kinds})).one_or_none()
    return None if row is None else TokenOwner(row[0], row[1], row[2])


async def admin_token_exists(session: AsyncSession) -> bool:
    """Whether any admin token is known."""
    query = select(TokenRow.id).where(TokenRow.kind == TokenKind.ADMIN).limit(1)
    return await session.scalar(query) is not None


async def exists(session: AsyncSession, token: TokenRow) -> bool:
    """Whether a token is still valid; to be asked under its client's lock.

    SQLite gives the id of a token that was replaced to the one that replaced it.
    """
    query = select(TokenRow.id).where(TokenRow.id == token.id, TokenRow.digest == token.digest)
    return await session.scalar(query) is not None


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


async def delete_tokens(session: AsyncSession, client_id: int) -> None:
    """Shuts a client out, effective at once."""
    await session.execute(delete(TokenRow).where(TokenRow.client_id == client_id))
