"""Tokens of administrators and of those who may only look: create, list, revoke."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy.exc import IntegrityError

from coordinator.access.credentials import new_token, token_digest
from coordinator.context import Context
from coordinator.errors import NameTaken, UnknownThing
from coordinator.store import tokens as store
from coordinator.store.tables import TokenRow
from coordinator.store.tokens import TokenKind
from shared.rest.schema import TokenReply, TokenRequest, TokenScope, TokenView

_log = structlog.get_logger()


async def create(context: Context, request: TokenRequest) -> TokenReply:
    """A new token, shown only in this answer.

    Raises:
        NameTaken: there is a token of this name.
    """
    now = context.clock()
    token = new_token(TokenKind(request.scope))
    expires_at = None
    if request.valid_seconds is not None:
        expires_at = now + timedelta(seconds=request.valid_seconds)
    row = TokenRow(
        digest=token_digest(token),
        kind=TokenKind(request.scope),
        name=request.name,
        created_at=now,
        expires_at=expires_at,
    )
    try:
        async with context.database.writing() as session:
            session.add(row)
    except IntegrityError as error:
        raise NameTaken(f"a token named {request.name} already exists") from error
    _log.info("token created", name=request.name, scope=request.scope.value)
    return TokenReply(**_view(row).model_dump(), token=token)


async def list_all(context: Context) -> list[TokenView]:
    """Every named token, without the token itself, which nobody knows."""
    async with context.database.reading() as session:
        return [_view(row) for row in await store.list_named(session)]


async def revoke(context: Context, name: str) -> None:
    """Ends a token at once.

    Raises:
        UnknownThing: there is no token of this name.
    """
    async with context.database.writing() as session:
        if not await store.delete_named(session, name):
            raise UnknownThing(f"there is no token {name}", token=name)
    _log.info("token revoked", name=name)


def _view(row: TokenRow) -> TokenView:
    return TokenView(
        name=row.name or "",
        scope=TokenScope(row.kind),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
