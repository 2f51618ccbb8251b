"""Token to who. Tokens are 256 random bits; the database keeps only their SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.bearer import bearer_token
from coordinator.context import Context
from coordinator.database import Database
from coordinator.errors import Forbidden, Unauthenticated
from coordinator.store import clients as store
from coordinator.store.clients import TokenKind
from coordinator.tables import ClientRow, FederationRow, TokenRow
from shared.schema import ClientState

_TOKEN_BYTES = 32


@dataclass(frozen=True)
class Admin:
    """May do everything, or look at everything that administrators may."""

    name: str
    may_write: bool


@dataclass(frozen=True)
class ClientPrincipal:
    """May work for itself in its own federation."""

    client: ClientRow
    federation: FederationRow
    token_id: int

    def require_federation(self, name: str) -> None:
        """Raises Forbidden for any other federation."""
        if self.federation.name != name:
            raise Forbidden(f"this token belongs to federation {self.federation.name}")

    def require_client(self, name: str) -> None:
        """Raises Forbidden for any other client."""
        if self.client.name != name:
            raise Forbidden(f"this token belongs to client {self.client.name}")


Principal = Admin | ClientPrincipal


def new_token(kind: TokenKind) -> str:
    """A token that says what it is for, so that one in the wrong place is recognised."""
    return f"hyperfl-{kind}-{secrets.token_urlsafe(_TOKEN_BYTES)}"


def token_digest(token: str) -> str:
    """What is stored of a token. Looked up by index, so no comparison leaks its timing."""
    return hashlib.sha256(token.encode()).hexdigest()


async def identify(context: Context, authorization: str | None) -> Principal:
    """Who sends this ``Authorization`` header.

    Raises:
        Unauthenticated: no bearer token, or none that is valid.
    """
    token = bearer_token(authorization)
    if token is None:
        raise Unauthenticated("send the header Authorization: Bearer TOKEN")
    digest = token_digest(token)
    async with context.database.reading() as session:
        owner = await store.find_token(
            session, digest, TokenKind.ADMIN, TokenKind.READ_ONLY, TokenKind.CLIENT
        )
    if owner is None:
        raise Unauthenticated("the token is not valid")
    now = context.clock()
    if owner.token.expires_at is not None and owner.token.expires_at <= now:
        raise Unauthenticated("the token has expired")
    if owner.token.kind != TokenKind.CLIENT:
        return Admin(owner.token.name or "", may_write=owner.token.kind == TokenKind.ADMIN)
    if owner.client is None or owner.federation is None:
        raise Unauthenticated("the token is not valid")
    if owner.client.state != ClientState.ENROLLED:
        raise Unauthenticated("the token is revoked")
    if owner.token.first_used_at is None:
        async with context.database.writing() as session:
            is_valid = await store.begin_to_use(session, owner.client.id, owner.token, now)
        if not is_valid:
            raise Unauthenticated("the token is not valid")
    return ClientPrincipal(owner.client, owner.federation, owner.token.id)


async def require_admitted(session: AsyncSession, principal: ClientPrincipal) -> None:
    """For what takes long: Unauthenticated if the credential has ended since the request began."""
    if not await store.is_admitted(session, principal.client.id, principal.token_id):
        raise Unauthenticated("the token is not valid any more")


async def ensure_admin_token(database: Database, file: Path, now: datetime) -> bool:
    """Makes the token in ``file`` valid, or writes a new one if there is none yet.

    Returns whether a new token was written. A database that knows an admin token keeps it when the
    file is missing: a second replica does not need the file.
    """
    token = _read_secret(file)
    if token is not None:
        async with database.writing() as session:
            digest = token_digest(token)
            if await store.find_token(session, digest, TokenKind.ADMIN) is None:
                session.add(_file_token(token, now))
        return False
    async with database.writing() as session:
        if await store.admin_token_exists(session):
            return False
        token = new_token(TokenKind.ADMIN)
        session.add(_file_token(token, now))
        _write_secret(file, token)
    return True


def _file_token(token: str, now: datetime) -> TokenRow:
    digest = token_digest(token)
    return TokenRow(digest=digest, kind=TokenKind.ADMIN, name=f"file-{digest[:12]}", created_at=now)


def _read_secret(file: Path) -> str | None:
    if not file.exists():
        return None
    token = file.read_text().strip()
    if len(token) < _TOKEN_BYTES:
        raise ValueError(f"{file} holds no token of at least {_TOKEN_BYTES} characters")
    return token


def _write_secret(file: Path, secret: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secret + "\n")
