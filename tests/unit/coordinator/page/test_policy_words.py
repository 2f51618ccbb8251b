"""A specification in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.page.policy_words import in_words
from tests.support.specifications import tiny_specification
from tests.support.sum_members import protected_specification


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"rounds": 1}, "1 round of training."),
        (
            {"rounds": 1200, "evaluate_final": True},
            "1,200 rounds of training; then all clients evaluate the final weights.",
        ),
        ({}, "Every enrolled client takes part in each round."),
        ({"cohort_size": 5}, "5 enrolled clients drawn for each round."),
        ({"cohort_fraction": 0.25}, "25 % of the enrolled clients drawn for each round."),
        (
            {"minimum_updates": 3, "deadline_seconds": 5400},
            "A round ends when all have answered, and after 1 h 30 min at the latest. With fewer "
            "than 3 updates it fails.",
        ),
        ({"grace_seconds": 60}, "Once it has 1 update it waits 1 min for more."),
        ({"max_failed_rounds": 0}, "The federation pauses after 1 failed round in a row."),
        (
            {"max_examples_weight": 500},
            "Updates are averaged by number of examples, 500 examples at most.",
        ),
        (
            {"max_update_norm": 1.5, "on_excess": "reject"},
            "A change with a norm beyond 1.5 is left out.",
        ),
        ({"max_relative_norm": None}, "A change may have any finite norm."),
    ],
)
def test_what_a_policy_says(policy: dict[str, Any], sentence: str) -> None:
    assert sentence in in_words(tiny_specification(**policy))


def test_what_protects_is_said() -> None:
    words = in_words(protected_specification())
    assert any("this coordinator sees the sum of a cohort alone" in one for one in words)


def test_every_sentence_is_one() -> None:
    for one in in_words(tiny_specification(cohort_size=4, grace_seconds=3, max_update_norm=2)):
        assert one.endswith(".")
        assert one[0].isupper() or one[0].isdigit()
