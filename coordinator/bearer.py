"""Finds a request's bearer token, alike for whoever counts it and whoever looks it up."""

from __future__ import annotations

from collections.abc import Iterable


def bearer_token(authorization: str | None) -> str | None:
    """The token in an ``Authorization`` header's value; None if it holds none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def find_bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token among an ASGI scope's headers. Of several headers the first counts."""
    for name, value in headers:
        if name == b"authorization":
            return bearer_token(value.decode("latin-1"))
    return None
