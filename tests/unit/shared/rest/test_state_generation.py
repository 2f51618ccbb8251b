"""Which private states may go on from one that is known."""

from __future__ import annotations

import pytest

from shared.rest.state_generation import FIRST_GENERATION, StateGeneration

KNOWN = StateGeneration(generation=5, mark="0a")


@pytest.mark.parametrize(
    ("told", "may_follow"),
    [
        (KNOWN, True),
        (StateGeneration(generation=6, mark="0b"), True),
        (StateGeneration(generation=9, mark="0a"), True),  # the coordinator came from a backup
        (StateGeneration(generation=4, mark="0a"), False),
        (StateGeneration(generation=5, mark="0b"), False),
        (FIRST_GENERATION, False),
    ],
)
def test_a_state_may_go_on_that_is_the_known_one_or_newer(
    told: StateGeneration, may_follow: bool
) -> None:
    assert told.may_follow(KNOWN) is may_follow


def test_the_next_has_a_mark_of_its_own() -> None:
    first, other = StateGeneration.after(5), StateGeneration.after(5)
    assert first.generation == other.generation == 6
    assert first.mark != other.mark
    assert StateGeneration.model_validate(first.model_dump()) == first
