"""Token to who. Tokens are 256 random bits; the database keeps only their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.access.credentials import bearer_token, form_token, token_digest
from coordinator.context import Context
from coordinator.errors import Forbidden, Unauthenticated
from coordinator.store import clients as client_store
from coordinator.store import sessions as session_store
from coordinator.store import tokens as token_store
from coordinator.store.tables import ClientRow, FederationRow, TokenRow
from coordinator.store.tokens import TokenKind
from shared.rest.schema import ClientState

_log = structlog.get_logger()


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


@dataclass(frozen=True)
class Visitor:
    """Who is signed in to the page."""

    admin: Admin
    session_id: int
    secret: str
    expires_at: datetime

    def form_token(self, path: str) -> str:
        """See :func:`coordinator.access.credentials.form_token`."""
        return form_token(self.secret, path)


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
        owner = await token_store.find_token(
            session, digest, TokenKind.ADMIN, TokenKind.READ_ONLY, TokenKind.CLIENT
        )
    if owner is None:
        raise Unauthenticated("the token is not valid")
    now = context.clock()
    _require_unexpired(owner.token, now)
    if owner.token.kind != TokenKind.CLIENT:
        return _administrator(owner.token)
    if owner.client is None or owner.federation is None:
        raise Unauthenticated("the token is not valid")
    if owner.client.state == ClientState.REVOKED:
        raise Unauthenticated("the token is revoked")
    if owner.token.first_used_at is None:
        async with context.database.writing() as session:
            is_valid = await client_store.begin_to_use(session, owner.client.id, owner.token, now)
        if not is_valid:
            raise Unauthenticated("the token is not valid")
        if owner.client.state == ClientState.INVITED:
            _log.info("client enrolled", federation=owner.federation.name, client=owner.client.name)
            context.driver_wake.set()
    return ClientPrincipal(owner.client, owner.federation, owner.token.id)


async def identify_administrator(context: Context, token: str) -> tuple[Admin, TokenRow]:
    """Whose token this is: an administrator's or a reader's.

    Raises:
        Unauthenticated: it is not valid, or is a client's.
    """
    async with context.database.reading() as session:
        owner = await token_store.find_token(
            session, token_digest(token), TokenKind.ADMIN, TokenKind.READ_ONLY
        )
    if owner is None:
        raise Unauthenticated("the token is not valid")
    _require_unexpired(owner.token, context.clock())
    return _administrator(owner.token), owner.token


async def identify_session(context: Context, secret: str | None) -> Visitor:
    """Who is signed in with this cookie's secret.

    Raises:
        Unauthenticated: nobody, or no longer.
    """
    if secret is None:
        raise Unauthenticated("sign in first")
    async with context.database.reading() as session:
        found = await session_store.find(session, token_digest(secret))
    now = context.clock()
    if found is None or found.session.expires_at <= now:
        raise Unauthenticated("the session has ended; sign in again")
    _require_unexpired(found.token, now)
    return Visitor(_administrator(found.token), found.session.id, secret, found.session.expires_at)


def _require_unexpired(token: TokenRow, now: datetime) -> None:
    if token.expires_at is not None and token.expires_at <= now:
        raise Unauthenticated("the token has expired")


def _administrator(token: TokenRow) -> Admin:
    return Admin(token.name or "", may_write=token.kind == TokenKind.ADMIN)


async def require_admitted(session: AsyncSession, principal: ClientPrincipal) -> None:
    """For what takes long: Unauthenticated if the credential has ended since the request began."""
    if not await client_store.is_admitted(session, principal.client.id, principal.token_id):
        raise credential_ended()


def credential_ended() -> Unauthenticated:
    """For a credential that ended since its request began."""
    return Unauthenticated("the token is no longer valid")
