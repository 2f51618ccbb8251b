"""Cards: whose they are, and what people compare of them."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from shared.secure_sum.cards import Card, SiteKeys, is_signed

KEYS = SiteKeys.from_text(
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
)


def test_a_fingerprint_is_twelve_groups_of_five_digits_of_both_keys() -> None:
    card = KEYS.card("hospitals", "site-a")
    assert re.fullmatch(r"\d{5}( \d{5}){11}", card.fingerprint)
    assert card.fingerprint == KEYS.card("other", "name").fingerprint
    assert card.fingerprint.startswith("58212 40301 54815 38457 34644 89220 77427 19314 ")
    other = SiteKeys.from_text(KEYS.to_text()[0], SiteKeys.generate().to_text()[1])
    assert other.card("hospitals", "site-a").fingerprint != card.fingerprint


@pytest.mark.parametrize("member", ["federation", "client", "identity", "share_key"])
def test_a_changed_card_is_refused(member: str) -> None:
    card = KEYS.card("hospitals", "site-a").model_dump()
    other = SiteKeys.generate().card("others", "site-b").model_dump()
    with pytest.raises(ValidationError, match="not signed by its identity"):
        Card.model_validate(card | {member: other[member]})


def test_a_signature_serves_for_one_purpose() -> None:
    card = KEYS.card("hospitals", "site-a")
    signature = KEYS.sign("join", {"a": 1})
    assert is_signed(card.identity, signature, "join", {"a": 1})
    assert not is_signed(card.identity, signature, "confirm", {"a": 1})
    assert not is_signed(card.identity, signature, "join", {"a": 2})
    assert not is_signed("A" * 43 + "=", signature, "join", {"a": 1})


def test_keys_come_back_from_their_text() -> None:
    again = SiteKeys.from_text(*KEYS.to_text())
    assert again.card("f", "c") == KEYS.card("f", "c")
