"""How far a round may move the weights."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation.move_limit import MoveLimit


@given(cap=st.floats(1e-6, 1e30), moved=st.floats(0.0, 1e35), base_norm=st.floats(0.0, 1e30))
def test_a_scaled_move_keeps_the_cap(cap: float, moved: float, base_norm: float) -> None:
    limit = MoveLimit(cap, base_norm, num_operations=130)
    assert moved * limit.scale_for(moved) <= limit.allowed


def test_a_move_within_the_limit_is_left_as_it_is() -> None:
    assert MoveLimit(5.0, 0.0, 1).scale_for(5.04) == 1.0


def test_weights_that_are_large_beside_the_cap_are_rounded_by_more_than_it() -> None:
    limit = MoveLimit(1e-6, 1e6, num_operations=1)
    assert limit.allowed == pytest.approx(2 * 2**-24 * 1e6, rel=1e-3)
