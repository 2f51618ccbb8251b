"""Reasons of declines as they are stored: a kind and a line in one."""

from __future__ import annotations

import pytest

from shared.rest.declines import DECLINE_WORDS, DeclineKind, as_text, from_text


@pytest.mark.parametrize("kind", DeclineKind)
def test_what_is_stored_is_read_again(kind: DeclineKind) -> None:
    assert from_text(as_text(kind, "a: b: c")) == (kind, "a: b: c")
    assert DECLINE_WORDS[kind]


@pytest.mark.parametrize("text", ["policy.minimum_steps is 20", "disk", "disk: ", "x: y", ": z"])
def test_a_text_of_before_kinds_is_of_none_of_them(text: str) -> None:
    assert from_text(text) == (DeclineKind.OTHER, text)
