"""Which versions' bytes are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.rules.retention import StoredVersion, surplus_deltas, surplus_weights


def stored(*versions: int, size_bytes: int = 10) -> list[StoredVersion]:
    return [StoredVersion(version, 100 + version, size_bytes) for version in versions]


def versions(found: list[StoredVersion]) -> list[int]:
    return [one.version for one in found]


def test_the_last_versions_are_kept() -> None:
    assert versions(surplus_weights(stored(*range(8)), 7, keep_last=3, keep_every=0)) == [
        *(0, 1, 2, 3, 4)
    ]


def test_every_so_manyth_version_is_kept_for_good_but_version_0_is_not() -> None:
    found = surplus_weights(stored(*range(12)), 11, keep_last=2, keep_every=4)
    assert versions(found) == [0, 1, 2, 3, 5, 6, 7, 9]


@given(newest=st.integers(0, 50), keep_last=st.integers(-3, 60), keep_every=st.integers(0, 60))
def test_the_newest_version_is_always_kept(newest: int, keep_last: int, keep_every: int) -> None:
    found = surplus_weights(stored(*range(newest + 1)), newest, keep_last, keep_every)
    assert newest not in versions(found)


def test_deltas_are_kept_while_their_chain_is_less_than_the_whole() -> None:
    deltas = stored(*range(1, 10))
    assert versions(surplus_deltas(deltas, 9, keep_last=1, whole_bytes=35)) == [1, 2, 3, 4, 5, 6]
    assert versions(surplus_deltas(deltas, 9, keep_last=1, whole_bytes=1000)) == []


def test_a_chain_that_is_as_large_as_the_whole_is_not_kept() -> None:
    assert versions(surplus_deltas(stored(7, 8, 9), 9, keep_last=1, whole_bytes=20)) == [7, 8]


def test_deltas_before_a_gap_are_not_kept() -> None:
    deltas = stored(1, 2, 3, 6, 7)
    assert versions(surplus_deltas(deltas, 7, keep_last=1, whole_bytes=1000)) == [1, 2, 3]


def test_the_deltas_of_the_last_versions_are_kept_whatever_they_weigh() -> None:
    assert versions(surplus_deltas(stored(*range(1, 7)), 6, keep_last=2, whole_bytes=1)) == [
        *(1, 2, 3, 4)
    ]
