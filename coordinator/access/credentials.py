"""Tokens: 256 random bits, of which the database keeps only the SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from coordinator.store.tokens import TokenKind

TOKEN_BYTES = 32

Headers = Iterable[tuple[bytes, bytes]]
"""Of an ASGI scope."""


def new_token(kind: TokenKind) -> str:
    """A token that says what it is for, so that one in the wrong place is recognised."""
    return f"hyperfl-{kind}-{secrets.token_urlsafe(TOKEN_BYTES)}"


def token_digest(token: str) -> str:
    """What is stored of a token. Looked up by index, so no comparison leaks its timing."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer_token(authorization: str | None) -> str | None:
    """The token in an ``Authorization`` header's value; None if it holds none."""
    scheme, token = _parse(authorization)
    return token or None if scheme == "bearer" else None


def find_bearer_token(headers: Headers) -> str | None:
    """The token among an ASGI scope's headers. Of several headers the first counts."""
    return bearer_token(_find(headers))


def find_secret(headers: Headers) -> str:
    """What stands behind the scheme, whatever the scheme is: nothing of it may be written down."""
    return _parse(_find(headers))[1]


def _find(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization":
            return value.decode("latin-1")
    return None


def _parse(authorization: str | None) -> tuple[str, str]:
    scheme, _, rest = (authorization or "").partition(" ")
    return scheme.lower(), rest.strip()
