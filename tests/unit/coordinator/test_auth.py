"""Tokens and principals, as far as no database is asked."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.auth import (
    ClientPrincipal,
    ensure_admin_token,
    identify,
    new_token,
    token_digest,
)
from coordinator.errors import Forbidden, Unauthenticated
from coordinator.store.clients import TokenKind
from coordinator.tables import ClientRow, FederationRow

NO_DATABASE: Any = None
PRINCIPAL = ClientPrincipal(ClientRow(name="site-a"), FederationRow(name="hospitals"), token_id=1)


def test_a_client_may_name_only_its_own_federation() -> None:
    PRINCIPAL.require_federation("hospitals")
    for other in ("banks", "hospital", "Hospitals", ""):
        with pytest.raises(Forbidden, match="this token belongs to federation hospitals"):
            PRINCIPAL.require_federation(other)


def test_a_client_may_name_only_itself() -> None:
    PRINCIPAL.require_client("site-a")
    for other in ("site-b", "site", "hospitals", ""):
        with pytest.raises(Forbidden, match="this token belongs to client site-a"):
            PRINCIPAL.require_client(other)


@pytest.mark.parametrize("kind", TokenKind)
def test_a_token_says_its_kind_and_has_256_bits_of_its_own(kind: TokenKind) -> None:
    tokens = {new_token(kind) for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        prefix = f"hyperfl-{kind.value}-"
        assert token.startswith(prefix)
        assert len(token.removeprefix(prefix)) == 43  # 32 bytes in base64 without padding
        assert token.isascii()


def test_a_token_is_known_by_its_sha_256() -> None:
    assert token_digest("abc") == hashlib.sha256(b"abc").hexdigest()
    assert token_digest("abc") != token_digest("abd")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer    ", "Basic YTpi", "hyperfl-admin-x"]
)
async def test_a_header_without_a_bearer_token_is_refused_before_the_database_is_asked(
    header: str | None,
) -> None:
    context: Any = SimpleNamespace(database=NO_DATABASE)
    with pytest.raises(Unauthenticated, match="Authorization: Bearer TOKEN"):
        await identify(context, header)


@pytest.mark.parametrize("content", ["", "\n", "admin", "x" * 31])
async def test_an_admin_token_file_with_a_short_token_is_refused(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "admin-token"
    file.write_text(content)
    with pytest.raises(ValueError, match="admin-token holds no token of at least 32 characters"):
        await ensure_admin_token(NO_DATABASE, file, datetime(2026, 1, 1, tzinfo=UTC))
    assert file.read_text() == content
