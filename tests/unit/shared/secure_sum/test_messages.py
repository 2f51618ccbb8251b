"""Terms that cannot be, and numbers that are no shares."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.secure_sum.cards import Card, SiteKeys, to_text
from shared.secure_sum.messages import Terms, number_to_share, share_to_number
from shared.secure_sum.shamir import PRIME

DIGEST = "sha256:" + "0" * 64
KEYS = [SiteKeys.generate() for _ in range(3)]
CARDS = [one.card("hospitals", name) for one, name in zip(KEYS, "abc", strict=True)]


def terms(**changes: Any) -> Terms:
    said = {
        "federation": "hospitals",
        "specification_digest": DIGEST,
        "round_number": 1,
        "kind": "train",
        "base_version": 0,
        "base_digest": DIGEST,
        "threshold": 3,
        "cohort": [card.model_dump() for card in CARDS],
    }
    return Terms.model_validate(said | changes)


def _dump(*cards: Card) -> list[dict[str, Any]]:
    return [card.model_dump() for card in cards]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": _dump(CARDS[1], CARDS[0], CARDS[2])}, "not in order of distinct names"),
        ({"cohort": _dump(CARDS[0], CARDS[0], CARDS[2])}, "not in order of distinct names"),
        ({"cohort": _dump(CARDS[0], CARDS[1])}, "at least 3 items"),
        (
            {"cohort": _dump(CARDS[0], CARDS[1], KEYS[1].card("hospitals", "c"))},
            "two clients of the cohort have one identity",
        ),
        (
            {"cohort": _dump(CARDS[0], CARDS[1], KEYS[2].card("others", "c"))},
            "a card is of another federation",
        ),
        ({"threshold": 2}, "the threshold is 2, not 3 of 3 clients"),
        ({"threshold": 4}, "the threshold is 4, not 3 of 3 clients"),
        ({"kind": "join"}, "'train' or 'evaluate'"),
    ],
)
def test_terms_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        terms(**changes)


@pytest.mark.parametrize(
    "change", [{"round_number": 2}, {"base_version": 1}, {"kind": "evaluate"}, {"federation": "x"}]
)
def test_whatever_changes_has_another_digest(change: dict[str, Any]) -> None:
    said = {name: getattr(terms(), name) for name in Terms.model_fields}
    assert terms().digest != Terms.model_construct(**said | change).digest


def test_only_elements_of_the_field_are_shares() -> None:
    assert share_to_number(to_text(number_to_share(PRIME - 1))) == PRIME - 1
    with pytest.raises(ValueError, match="no element of the field"):
        share_to_number(to_text(number_to_share(PRIME)))
