"""Points that a test may watch, and that cost nothing where nobody does."""

from __future__ import annotations

import pytest

from shared import crash_points
from tests.support.crash_points import listening_to_crash_points


def test_nobody_watches_unless_a_test_says_so() -> None:
    assert crash_points.on_reached is None
    crash_points.reached("update-saved")


def test_who_watches_hears_of_every_point_in_order() -> None:
    heard: list[str] = []
    with listening_to_crash_points(heard.append):
        for point in ("update-saved", "update-sent", "update-saved"):
            crash_points.reached(point)
    assert heard == ["update-saved", "update-sent", "update-saved"]


def test_what_a_watcher_raises_ends_the_code_that_passes() -> None:
    def crash(point: str) -> None:
        raise KeyboardInterrupt(point)

    with (
        listening_to_crash_points(crash),
        pytest.raises(KeyboardInterrupt, match="update-saved"),
    ):
        crash_points.reached("update-saved")
