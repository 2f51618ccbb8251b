"""What is written down holds no secret, stays on one line and is of bounded length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.access.credentials import new_token
from coordinator.store.tokens import TokenKind
from shared.terminal.redaction import redact


@pytest.mark.parametrize("kind", TokenKind)
def test_a_token_of_any_kind_is_left_out_wherever_it_stands(kind: TokenKind) -> None:
    token = new_token(kind)
    assert redact(f"/v1/{token}/x?a={token}") == f"/v1/hyperfl-{kind}-…/x?a=hyperfl-{kind}-…"


@given(st.sampled_from(TokenKind), st.text(max_size=300), st.text(max_size=300))
def test_no_token_survives_in_any_text(kind: TokenKind, before: str, after: str) -> None:
    token = new_token(kind)
    assert token.removeprefix(f"hyperfl-{kind}-")[:43] not in redact(before + token + after)


@given(st.text(max_size=400))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str) -> None:
    line = redact(text)
    assert len(line) <= 200
    assert len(line.splitlines()) <= 1
    line.encode()
    assert line.isprintable()


@pytest.mark.parametrize(
    "control", ["\n", "\r", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\udc80"]
)
def test_what_would_break_a_line_or_a_terminal_is_replaced(control: str) -> None:
    line = redact(f"a{control}b")
    assert line.startswith("a\\")
    assert line.isprintable()


def test_secrets_that_are_no_token_are_left_out_too() -> None:
    assert redact("POST with s3cret and s3cret", "s3cret") == "POST with … and …"


def test_an_empty_secret_changes_nothing() -> None:
    assert redact("POST /v1", "") == "POST /v1"


def test_plain_text_stays_as_it_is() -> None:
    text = "client hospitals/site-a, Zürich – 東京"
    assert redact(text) == text


def test_the_end_of_a_long_text_is_marked() -> None:
    assert redact("x" * 200) == "x" * 200
    assert redact("x" * 201) == "x" * 199 + "…"
