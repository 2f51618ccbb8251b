"""Members of a sum: what they send, once each, and what a coordinator that lies gets of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.unmasking import Masks
from shared.federation.protection_plan import threshold_of
from shared.secure_sum.cards import to_text
from shared.secure_sum.messages import RecordedJoin, share_to_number
from shared.secure_sum.shamir import PRIME, weights_at_zero
from tests.support.sum_cohort import Cohort, Confirmed, changed, vector_of
from worker.errors import SumRefused
from worker.secure_sum.member_state import MemberState


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
    Masks(cohort.terms, joins, frozenset(survivors), secrets).take_off(total)
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
