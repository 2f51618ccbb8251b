"""Terms and members that a member of a secure sum takes, and which it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.secure_sum.cards import SiteKeys
from shared.secure_sum.messages import JoinedMember, Terms
from tests.support.sum_cohort import Cohort, Confirmed, changed
from worker.errors import SumRefused
from worker.secure_sum.member_state import MemberState

Lie = Callable[[Cohort], Terms]


def _with(**changes: object) -> Lie:
    return lambda cohort: changed(cohort.terms, changes)


def _other_card(cohort: Cohort) -> Terms:
    cards = list(cohort.terms.cohort)
    cards[0] = SiteKeys.generate().card("hospitals", "site-00")
    return changed(cohort.terms, {"cohort": tuple(cards)})


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (_with(federation="others"), "of federation others"),
        (_with(specification_digest="sha256:" + "1" * 64), "another specification"),
        (_other_card, "do not have this client's card"),
    ],
)
def test_terms_of_something_else_are_not_joined(lie: Lie, message: str) -> None:
    cohort = Cohort.of(5)
    cohort.terms = lie(cohort)
    with pytest.raises(SumRefused, match=message):
        cohort.join(["site-00"])


def test_a_cohort_under_the_minimum_is_not_joined() -> None:
    cohort = Cohort.of(5)
    member = replace(cohort.members["site-00"], minimum_updates=6)
    with pytest.raises(SumRefused, match="5 clients are in the cohort, 6 are needed"):
        member.join(MemberState(), cohort.terms)


def test_a_cohort_of_strangers_is_not_joined() -> None:
    cohort = Cohort.of(5)
    member = replace(
        cohort.members["site-00"], trusted=frozenset({"site-01", "absent"}), minimum_trusted=2
    )
    with pytest.raises(SumRefused, match=r"trusts 1, and policy\.minimum_trusted_peers is 2"):
        member.join(MemberState(), cohort.terms)


def test_a_round_that_was_joined_has_no_other_terms() -> None:
    cohort = Cohort.of(5)
    cohort.join(["site-00"])
    cohort.terms = changed(cohort.terms, {"base_version": 1})
    with pytest.raises(SumRefused, match="round 1 had other terms before") as refusal:
        cohort.join(["site-00"])
    assert refusal.value.joined_round == 1


def test_an_earlier_round_is_not_played_again(confirmed: Confirmed) -> None:
    cohort = confirmed.cohort
    old = cohort.terms
    cohort.terms = changed(old, {"round_number": 2})
    cohort.join(["site-00"])
    cohort.terms = old
    with pytest.raises(SumRefused, match="has joined round 2 before") as refusal:
        cohort.join(["site-00"])
    assert refusal.value.joined_round == 2
    with pytest.raises(SumRefused, match="has joined round 2 meanwhile"):
        cohort.unmask("site-00", confirmed.view())


def test_a_round_that_was_not_joined_gets_nothing() -> None:
    cohort = Cohort.of(5)
    joined = cohort.join(list(cohort.members)[1:])
    with pytest.raises(SumRefused, match="did not join round 1"):
        cohort.mask("site-00", joined, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda joined: joined[:3], "3 clients have joined, 4 are needed"),
        (lambda joined: joined[::-1], "not in order of distinct names"),
        (lambda joined: [*joined[:4], joined[3]], "not in order of distinct names"),
        (lambda joined: joined[1:], "this client's join is not among"),
        (
            lambda joined: [
                joined[0],
                joined[1].model_copy(update={"mask_key": joined[2].mask_key}),
                *joined[2:],
            ],
            "client site-01 did not sign its join",
        ),
        (
            lambda joined: [*joined[:4], joined[4].model_copy(update={"client": "site-99"})],
            "client site-99 did not sign its join",
        ),
    ],
)
def test_a_set_of_members_that_lies_gets_no_update(
    change: Callable[[list[JoinedMember]], list[JoinedMember]], message: str
) -> None:
    cohort = Cohort.of(5)
    joined = change(cohort.join(list(cohort.members)))
    with pytest.raises(SumRefused, match=message):
        cohort.mask("site-00", joined, 1)


def test_a_join_of_another_round_is_not_taken() -> None:
    cohort = Cohort.of(5)
    names = list(cohort.members)
    old = cohort.join(names)
    cohort.terms = changed(cohort.terms, {"round_number": 2})
    joined = [*cohort.join(names)[:4], old[4]]
    with pytest.raises(SumRefused, match="client site-04 did not sign its join"):
        cohort.members["site-00"].check_joined(cohort.states["site-00"], 2, joined)
