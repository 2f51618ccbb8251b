"""Tokens, and which one a header holds: the same for its rate as for its rights."""

from __future__ import annotations

import hashlib

import pytest

from coordinator.access.credentials import (
    bearer_token,
    find_bearer_token,
    new_token,
    token_digest,
)
from coordinator.store.tokens import TokenKind


@pytest.mark.parametrize(
    "header",
    ["Bearer abc", "bearer abc", "BEARER abc", "Bearer   abc", "Bearer abc \t", "Bearer \xa0abc"],
)
def test_every_spelling_holds_the_same_token(header: str) -> None:
    assert bearer_token(header) == "abc"
    assert find_bearer_token([(b"authorization", header.encode("latin-1"))]) == "abc"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer  ", "Basic abc", "Bearer\tabc", " Bearer abc"]
)
def test_what_is_no_bearer_token_is_none(header: str | None) -> None:
    assert bearer_token(header) is None


def test_the_first_of_several_headers_counts() -> None:
    headers = [(b"host", b"x"), (b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    assert find_bearer_token(headers) == "a"
    assert find_bearer_token(headers[:1]) is None


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
