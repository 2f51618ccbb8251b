"""Kills a child process at a named point, once. Python runs this when its folder is on PYTHONPATH.

``CRASH_POINT`` names a point that the code passes, as ``NAME:COUNT`` for a later time than the
first; ``CRASH_MARKER`` is a file that says that it has happened. The project is on PYTHONPATH too.
"""

from __future__ import annotations

import os
import signal


def _install(point: str, count: int, marker: str) -> None:
    from shared import crash_points  # noqa: PLC0415 - of no use to a process that is not to die

    passed = 0

    def note(name: str) -> None:
        nonlocal passed
        passed += name == point
        if name == point and passed == count:
            _die(marker)

    crash_points.on_reached = note


def _die(marker: str) -> None:
    """Ends the process as a power failure would, unless it did so before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


if _given := os.environ.get("CRASH_POINT"):
    _point, _, _count = _given.partition(":")
    _install(_point, int(_count or 1), os.environ["CRASH_MARKER"])
