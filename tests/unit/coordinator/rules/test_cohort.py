from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rules.cohort import group, sample

NAMES = [f"site-{letter}" for letter in "abcdefghij"]
PINNED = {1: ["site-a", "site-f", "site-h"], 2: ["site-a", "site-b", "site-e"]}
GROUPS = [
    ["site-a", "site-d", "site-i"],
    ["site-b", "site-c", "site-f", "site-j"],
    ["site-e", "site-g", "site-h"],
]
some_names = st.lists(st.text("abcdefghijklmnop-_.0123456789", min_size=1), min_size=1, unique=True)


@given(
    names=some_names, seed=st.integers(0, 2**63 - 1), number=st.integers(1, 10**6), data=st.data()
)
@settings(max_examples=100)
def test_a_cohort_has_its_size_and_does_not_depend_on_the_order_of_names(
    names: list[str], seed: int, number: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(names)))
    shuffled = data.draw(st.permutations(names))
    cohort = sample(seed, number, names, size)
    assert len(set(cohort)) == len(cohort) == size
    assert set(cohort) <= set(names)
    assert cohort == sorted(cohort)
    assert sample(seed, number, iter(shuffled), size) == cohort


def test_the_draw_is_pinned_so_that_replicas_of_two_releases_agree() -> None:
    assert sample(7, 1, NAMES, 3) == PINNED[1]
    assert sample(7, 2, NAMES, 3) == PINNED[2]


def test_everybody_takes_part_when_all_are_drawn() -> None:
    assert sample(1, 1, reversed(NAMES), len(NAMES)) == NAMES


def test_every_client_is_drawn_about_equally_often() -> None:
    counts = Counter(name for number in range(3000) for name in sample(7, number, NAMES, 3))
    # 3000 draws with probability 0.3: 900 with a standard deviation of 25.
    assert all(abs(counts[name] - 900) < 5 * 25 for name in NAMES), counts


def test_rounds_are_drawn_independently() -> None:
    together = sum(
        len(set(sample(7, number, NAMES, 3)) & set(sample(7, number + 1, NAMES, 3)))
        for number in range(3000)
    )
    # Two independent cohorts of 3 out of 10 share 0.9 clients in the mean, with a deviation of 0.7.
    assert abs(together / 3000 - 0.9) < 5 * 0.7 / 3000**0.5


def test_another_seed_draws_another_series() -> None:
    first = [sample(1, number, NAMES, 3) for number in range(20)]
    second = [sample(2, number, NAMES, 3) for number in range(20)]
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


def test_a_small_change_of_the_members_keeps_the_ranks_of_the_others() -> None:
    cohort = sample(7, 1, NAMES, 4)
    absent = next(name for name in NAMES if name not in cohort)
    assert sample(7, 1, [name for name in NAMES if name != absent], 4) == cohort


@pytest.mark.parametrize(("num_clients", "size"), [(0, 1), (3, 4), (3, 0), (3, -1), (0, 0)])
def test_a_cohort_that_cannot_be_drawn_is_an_error(num_clients: int, size: int) -> None:
    with pytest.raises(
        ValueError, match=f"a cohort of {size} cannot be drawn from {num_clients} clients"
    ):
        sample(1, 1, NAMES[:num_clients], size)


@given(names=some_names, seed=st.integers(0, 2**63 - 1), data=st.data())
@settings(max_examples=100)
def test_groups_take_turns_and_nobody_changes_from_one_to_another(
    names: list[str], seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(names)))
    count = len(names) // size
    shuffled = data.draw(st.permutations(names))
    groups = [group(seed, number, names, size) for number in range(count)]
    assert sorted(name for one in groups for name in one) == sorted(names)
    assert all(size <= len(one) < 2 * size and one == sorted(one) for one in groups)
    assert [group(seed, number, iter(shuffled), size) for number in range(count, 3 * count)] == [
        *groups,
        *groups,
    ]


def test_groups_are_pinned_so_that_replicas_of_two_releases_agree() -> None:
    assert [group(7, number, NAMES, 3) for number in (1, 2, 3)] == GROUPS


def test_no_group_is_larger_than_there_are_clients() -> None:
    with pytest.raises(ValueError, match="a cohort of 3 cannot be drawn from 2 clients"):
        group(1, 1, NAMES[:2], 3)
