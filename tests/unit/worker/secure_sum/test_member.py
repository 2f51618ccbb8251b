"""Members of a sum: what they send, once each, and what a coordinator that lies gets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.unmasking import Masks
from shared.federation.protection_plan import threshold_of
from shared.secure_sum.cards import SiteKeys, to_text
from shared.secure_sum.masks import RingVector
from shared.secure_sum.messages import (
    ExchangeView,
    JoinedMember,
    RecordedJoin,
    Terms,
    share_to_number,
)
from shared.secure_sum.shamir import PRIME, weights_at_zero
from worker.errors import SumRefused
from worker.secure_sum.member import Member
from worker.secure_sum.member_state import MemberState

DIGEST = "sha256:" + "0" * 64
BITS, NUM_COUNTS, NUM_VALUES = 20, 2, 11


def vector_of(seed: int) -> RingVector:
    generator = np.random.default_rng(seed)
    return RingVector(
        generator.integers(0, 2**63, NUM_COUNTS, dtype=np.uint64),
        generator.integers(0, 2**BITS, NUM_VALUES, dtype=np.uint32),
        BITS,
    )


def changed(terms: Terms, changes: Mapping[str, object]) -> Terms:
    """Terms that say something else, whether they can be or not."""
    said = {name: getattr(terms, name) for name in Terms.model_fields}
    return Terms.model_construct(**said | dict(changes))


@dataclass
class Cohort:
    """Members whose messages an honest coordinator carries about; a test makes it lie."""

    members: dict[str, Member]
    states: dict[str, MemberState]
    terms: Terms

    @classmethod
    def of(cls, size: int) -> Cohort:
        keys = {f"site-{index:02d}": SiteKeys.generate() for index in range(size)}
        cards = {name: one.card("hospitals", name) for name, one in keys.items()}
        terms = Terms(
            federation="hospitals",
            specification_digest=DIGEST,
            round_number=1,
            kind="train",
            base_version=0,
            base_digest=DIGEST,
            threshold=threshold_of(size),
            cohort=tuple(cards.values()),
        )
        members = {name: Member(one, cards[name], DIGEST, 3) for name, one in keys.items()}
        return cls(members, dict.fromkeys(members, MemberState()), terms)

    def join(self, names: Sequence[str]) -> list[JoinedMember]:
        for name in names:
            self.states[name] = self.members[name].join(self.states[name], self.terms)
        return [self.exchange(name).join.member for name in names]

    def mask(self, name: str, joined: Sequence[JoinedMember], seed: int) -> RingVector:
        vector = vector_of(seed)
        self.states[name] = self.members[name].mask(self.states[name], 1, joined, vector)
        return vector

    def confirm(self, name: str, survivors: Sequence[str]) -> str:
        self.states[name] = self.members[name].confirm(self.states[name], 1, survivors)
        confirmation = self.exchange(name).confirmation
        assert confirmation is not None
        return confirmation.signature

    def view(
        self,
        name: str,
        joined: Sequence[JoinedMember],
        survivors: Sequence[str],
        confirmations: dict[str, str],
    ) -> ExchangeView:
        sealed = {one.client: self.exchange(one.client).join.shares[name].sealed for one in joined}
        return ExchangeView(survivors=tuple(survivors), confirmations=confirmations, sealed=sealed)

    def unmask(self, name: str, view: ExchangeView) -> dict[str, str]:
        self.states[name] = self.members[name].unmask(self.states[name], 1, view)
        unmasking = self.exchange(name).unmasking
        assert unmasking is not None
        return unmasking.shares

    def exchange(self, name: str):  # type: ignore[no-untyped-def]
        newest = self.states[name].newest
        assert newest is not None
        return newest


@dataclass
class Confirmed:
    """A cohort of five up to its confirmations: all joined, one dropped out before masking."""

    cohort: Cohort
    joined: list[JoinedMember]
    survivors: list[str]
    confirmations: dict[str, str]

    def view(self, name: str = "site-00") -> ExchangeView:
        return self.cohort.view(name, self.joined, self.survivors, self.confirmations)


@pytest.fixture
def confirmed() -> Confirmed:
    cohort = Cohort.of(5)
    names = list(cohort.members)
    joined = cohort.join(names)
    survivors = names[:4]
    for index, name in enumerate(survivors):
        cohort.mask(name, joined, index)
    confirmations = {name: cohort.confirm(name, survivors) for name in survivors}
    return Confirmed(cohort, joined, survivors, confirmations)


@given(size=st.integers(3, 9), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_sum_is_exact_whoever_drops_out(size: int, data: st.DataObject) -> None:
    cohort = Cohort.of(size)
    needed = max(3, threshold_of(size))

    def some_of(names: Sequence[str]) -> list[str]:
        count = data.draw(st.integers(needed, len(names)))
        return sorted(data.draw(st.permutations(names))[:count])

    everybody = some_of(list(cohort.members))
    joined = cohort.join(everybody)
    survivors = some_of(everybody)
    total, expected = vector_of(0), vector_of(0)
    for index, name in enumerate(survivors):
        total.add(cohort.mask(name, joined, index + 1))
        expected.add(vector_of(index + 1))
    confirmations = {name: cohort.confirm(name, survivors) for name in some_of(survivors)}
    chosen = some_of(survivors)[: cohort.terms.threshold]
    shares = {
        name: cohort.unmask(name, cohort.view(name, joined, survivors, confirmations))
        for name in chosen
    }
    weights = weights_at_zero([cohort.terms.names.index(name) + 1 for name in chosen])
    secrets = {
        name: sum(
            weight * share_to_number(shares[sender][name])
            for weight, sender in zip(weights, chosen, strict=True)
        )
        % PRIME
        for name in everybody
    }
    joins = [RecordedJoin(member=one, seed=cohort.exchange(one.client).join.seed) for one in joined]
    Masks(cohort.terms, joins, survivors, secrets).take_off(total)
    assert (total.counts == expected.counts).all()
    assert (total.values == expected.values).all()


def test_a_masked_vector_looks_like_no_other_of_the_same_input() -> None:
    masked = []
    for _ in range(2):
        cohort = Cohort.of(3)
        masked.append(cohort.mask("site-00", cohort.join(list(cohort.members)), 1).values.tolist())
    assert masked[0] != masked[1] != vector_of(1).values.tolist()


def test_every_step_that_is_asked_again_gives_what_was_saved(confirmed: Confirmed) -> None:
    cohort = confirmed.cohort
    before = cohort.states["site-00"]
    assert cohort.members["site-00"].join(before, cohort.terms) == before
    assert cohort.members["site-00"].confirm(before, 1, confirmed.survivors) == before
    cohort.unmask("site-00", confirmed.view())
    after = cohort.states["site-00"]
    assert cohort.members["site-00"].unmask(after, 1, confirmed.view()) == after


def test_each_join_is_counted() -> None:
    cohort = Cohort.of(3)
    for number in (1, 2, 3):
        cohort.terms = changed(cohort.terms, {"round_number": number})
        cohort.join(["site-00"])
        assert cohort.states["site-00"].generation == number
        assert cohort.exchange("site-00").join.generation == number


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
    with pytest.raises(SumRefused, match="round 1 had other terms before"):
        cohort.join(["site-00"])


def test_an_earlier_round_is_not_played_again(confirmed: Confirmed) -> None:
    cohort = confirmed.cohort
    old = cohort.terms
    cohort.terms = changed(old, {"round_number": 2})
    cohort.join(["site-00"])
    cohort.terms = old
    with pytest.raises(SumRefused, match="has joined round 2 meanwhile"):
        cohort.join(["site-00"])
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


def test_a_second_update_is_not_masked(confirmed: Confirmed) -> None:
    with pytest.raises(SumRefused, match="masked for this round before"):
        confirmed.cohort.mask("site-00", confirmed.joined, 7)


@pytest.mark.parametrize(
    ("survivors", "message"),
    [
        (["site-00", "site-01", "site-02"], "3 clients survive, 4 are needed"),
        (["site-01", "site-02", "site-03", "site-04"], "not among the survivors"),
        (["site-00", "site-01", "site-02", "site-99"], "a survivor did not join"),
        (["site-00", "site-01", "site-02", "site-02"], "a survivor did not join"),
    ],
)
def test_survivors_that_cannot_be_are_not_confirmed(survivors: list[str], message: str) -> None:
    cohort = Cohort.of(5)
    joined = cohort.join(list(cohort.members))
    cohort.mask("site-00", joined, 1)
    with pytest.raises(SumRefused, match=message):
        cohort.confirm("site-00", survivors)


def test_a_second_set_of_survivors_is_not_confirmed(confirmed: Confirmed) -> None:
    with pytest.raises(SumRefused, match="others than this client has confirmed"):
        confirmed.cohort.confirm("site-00", ["site-00", "site-01", "site-02", "site-04"])


def test_no_share_is_given_before_this_member_has_sent_an_update(confirmed: Confirmed) -> None:
    with pytest.raises(SumRefused, match="masked no update for round 1"):
        confirmed.cohort.unmask("site-04", confirmed.view("site-04"))


@pytest.mark.parametrize("lie", ["too few", "of a stranger", "forged", "of other survivors"])
def test_shares_are_given_for_enough_confirmations_only(confirmed: Confirmed, lie: str) -> None:
    cohort, confirmations = confirmed.cohort, dict(confirmed.confirmations)
    match lie:
        case "too few":
            del confirmations["site-03"]
        case "of a stranger":
            confirmations["site-04"] = confirmations.pop("site-03")
        case "forged":
            confirmations["site-03"] = to_text(bytes(64))
        case _:
            others = ["site-00", "site-01", "site-03", "site-04"]
            state = cohort.states["site-03"]
            assert state.newest is not None
            fresh = state.newest.model_copy(update={"survivors": None, "confirmation": None})
            cohort.states["site-03"] = state.model_copy(update={"newest": fresh})
            confirmations["site-03"] = cohort.confirm("site-03", others)
    view = cohort.view("site-00", confirmed.joined, confirmed.survivors, confirmations)
    with pytest.raises(SumRefused, match="3 clients have confirmed, 4 are needed"):
        cohort.unmask("site-00", view)


def test_both_kinds_of_share_of_one_member_are_never_given(confirmed: Confirmed) -> None:
    cohort = confirmed.cohort
    shares = cohort.unmask("site-00", confirmed.view())
    state = cohort.states["site-00"]
    others = ["site-00", "site-01", "site-02", "site-04"]
    view = cohort.view("site-00", confirmed.joined, others, confirmed.confirmations)
    with pytest.raises(SumRefused, match="others than this client has confirmed"):
        cohort.unmask("site-00", view)
    assert cohort.states["site-00"] == state
    assert set(shares) == set(cohort.members)


def test_who_never_confirmed_gives_shares_of_one_set_of_survivors_only() -> None:
    cohort = Cohort.of(5)
    names = list(cohort.members)
    joined = cohort.join(names)
    for index, name in enumerate(names):
        cohort.mask(name, joined, index)
    confirmations = {name: cohort.confirm(name, names) for name in names[1:]}
    cohort.unmask("site-00", cohort.view("site-00", joined, names, confirmations))
    with pytest.raises(SumRefused, match="others than this client has confirmed"):
        cohort.confirm("site-00", names[:4])


@pytest.mark.parametrize("lie", ["missing", "of another sender", "for another receiver"])
def test_shares_that_are_not_their_senders_end_it(confirmed: Confirmed, lie: str) -> None:
    view = confirmed.view()
    sealed = dict(view.sealed)
    match lie:
        case "missing":
            del sealed["site-03"]
        case "of another sender":
            sealed["site-03"] = sealed["site-02"]
        case _:
            other = confirmed.cohort.exchange("site-03").join.shares["site-01"]
            sealed["site-03"] = other.sealed
    with pytest.raises(SumRefused, match=r"client site-03's shares are (missing|not its own)"):
        confirmed.cohort.unmask("site-00", view.model_copy(update={"sealed": sealed}))


def test_a_state_comes_back_from_its_text(confirmed: Confirmed) -> None:
    state = confirmed.cohort.states["site-00"]
    assert MemberState.model_validate_json(state.model_dump_json()) == state
