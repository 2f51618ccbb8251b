"""Tokens: 256 random bits, of which the database keeps only the SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from starlette.requests import cookie_parser

from coordinator.store.tokens import TokenKind

TOKEN_BYTES = 32

Headers = Iterable[tuple[bytes, bytes]]
"""Of an ASGI scope."""


def new_token(kind: TokenKind) -> str:
    """A token that says what it is for, so that one in the wrong place is recognised."""
    return f"hyperfl-{kind}-{secrets.token_urlsafe(TOKEN_BYTES)}"


def new_session_secret() -> str:
    """What a browser's cookie holds once somebody has signed in to the page."""
    return f"hyperfl-session-{secrets.token_urlsafe(TOKEN_BYTES)}"


def form_token(session_secret: str, path: str) -> str:
    """What a form says to show that it came from this session's page, and was made for ``path``.

    Nobody can make it without the secret, and it is good for no other form.
    """
    return hmac.new(session_secret.encode(), path.encode(), hashlib.sha256).hexdigest()


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


def session_cookie(*, is_over_tls: bool) -> str:
    """The name of the cookie that holds a session's secret.

    Over TLS browsers take it from this host alone: no other host of the domain can put one there.
    """
    return "__Host-hyperfl-session" if is_over_tls else "hyperfl-session"


def find_session_secret(headers: Headers, *, is_over_tls: bool) -> str | None:
    """The secret of a session among an ASGI scope's headers."""
    cookies = cookie_parser(_find(headers, b"cookie") or "")
    return cookies.get(session_cookie(is_over_tls=is_over_tls)) or None


def _find(headers: Headers, wanted: bytes = b"authorization") -> str | None:
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return None


def _parse(authorization: str | None) -> tuple[str, str]:
    scheme, _, rest = (authorization or "").partition(" ")
    return scheme.lower(), rest.strip()
