"""Parsed specifications that are kept, and what lists show of those that cannot be read."""

from __future__ import annotations

import json

import pytest

from coordinator.context import SpecificationOutline, Specifications
from coordinator.errors import UnreadableSpecification
from coordinator.store.tables import FederationRow
from tests.support.specifications import tiny_specification


def recorded(federation_id: int) -> FederationRow:
    name = f"federation-{federation_id}"
    document = json.dumps(tiny_specification(name).document)
    return FederationRow(id=federation_id, name=name, specification=document)


def unreadable(federation_id: int, text: str = "{") -> FederationRow:
    return FederationRow(id=federation_id, name="hospitals", specification=text)


def test_a_specification_is_parsed_once_per_federation() -> None:
    specifications = Specifications()
    first, second = recorded(1), recorded(2)
    found = specifications.of(first)
    assert found == tiny_specification("federation-1")
    assert specifications.of(second).name == "federation-2"
    assert specifications.of(recorded(1)) is found


def test_the_one_used_longest_ago_is_dropped_and_not_the_oldest() -> None:
    specifications = Specifications(kept=2)
    first, second = specifications.of(recorded(1)), specifications.of(recorded(2))
    assert specifications.of(recorded(1)) is first
    third = specifications.of(recorded(3))
    assert specifications.of(recorded(1)) is first
    assert specifications.of(recorded(3)) is third
    again = specifications.of(recorded(2))
    assert again == second
    assert again is not second


def test_no_more_are_kept_than_may_be_and_the_newest_is() -> None:
    specifications = Specifications(kept=1)
    for number in (1, 2, 1, 3, 2):
        assert specifications.of(recorded(number)) is specifications.of(recorded(number))
    assert len(specifications._parsed) == 1


@pytest.mark.parametrize(
    ("text", "is_damaged", "words"),
    [
        ("{", True, "of federation hospitals is not JSON: "),
        ("{}", False, "cannot read the specification of federation hospitals: name: "),
    ],
)
def test_what_cannot_be_read_is_refused_whoever_asks_and_keeps_no_place(
    text: str, is_damaged: bool, words: str
) -> None:
    specifications = Specifications(kept=1)
    readable = specifications.of(recorded(1))
    for _ in range(2):
        with pytest.raises(UnreadableSpecification, match=words) as refusal:
            specifications.of(unreadable(2, text))
        assert refusal.value.is_damaged is is_damaged
    assert specifications.of(recorded(1)) is readable


def test_an_outline_has_what_lists_show() -> None:
    specification = tiny_specification("federation-1")
    assert Specifications().outline_of(recorded(1)) == SpecificationOutline(
        method="hyperfl",
        model=specification.training.model,
        rounds=specification.round_policy.rounds,
        fault=None,
    )


def test_what_cannot_be_read_has_a_fault_for_its_outline() -> None:
    specifications = Specifications()
    federation = unreadable(2)
    outline = specifications.outline_of(federation)
    with pytest.raises(UnreadableSpecification) as refusal:
        specifications.of(federation)
    assert outline == SpecificationOutline(fault=refusal.value.detail)


@pytest.mark.parametrize("federation", [recorded(1), unreadable(1)], ids=["readable", "not"])
def test_an_outline_outlives_the_specification_that_it_was_made_from(
    federation: FederationRow,
) -> None:
    """A list is asked for often and shows every federation: it parses none of them again."""
    specifications = Specifications(kept=1)
    assert not specifications.knows(1)
    outline = specifications.outline_of(federation)
    specifications.of(recorded(2))
    assert (specifications.knows(1), specifications.knows(2)) == (True, False)
    no_document = FederationRow(id=1, name=federation.name)
    assert specifications.outline_of(no_document) is outline
