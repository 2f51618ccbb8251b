"""Moments at which a child process may be killed: what the code calls them, and when it is time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared import crash_points
from tests.support.processes import PROJECT

FOLDER = PROJECT / "tests" / "support" / "crash_point"
"""On a child's PYTHONPATH it kills the child: see its sitecustomize.py."""

_LATER_TIMES = {
    # The first piece is on disk, the second is not.
    "weights-piece-received": 2,
    # The first version is built from the seed.
    "weights-obtained": 2,
    # In the middle of training.
    "step": 5,
}
"""Which time that a point is passed counts, where it is not the first."""


@contextmanager
def listening_to_crash_points(listener: Callable[[str], None]) -> Iterator[None]:
    """Calls ``listener`` with each point that this process passes; what it raises is raised."""
    crash_points.on_reached = listener
    try:
        yield
    finally:
        crash_points.on_reached = None


def crash_environment(point: str, marker: object) -> dict[str, str]:
    """What a process finds in its environment that is killed at ``point``, but once in all.

    ``NAME:COUNT`` asks for a time of one's own. Without a point nothing is killed.
    """
    name, colon, _ = point.partition(":")
    assert not name or name in points_in_the_code(), f"the code does not pass {name}"
    count = "" if colon or name not in _LATER_TIMES else f":{_LATER_TIMES[name]}"
    return {
        "PYTHONPATH": f"{FOLDER}:{PROJECT}",
        "CRASH_POINT": point + count,
        "CRASH_MARKER": str(marker),
    }


def points_in_the_code() -> set[str]:
    """The names that are given to ``reached``."""
    return {
        name
        for package in ("coordinator", "worker", "shared")
        for file in (PROJECT / package).rglob("*.py")
        for name in re.findall(r'\breached\("([^"]+)"\)', file.read_text())
    }
