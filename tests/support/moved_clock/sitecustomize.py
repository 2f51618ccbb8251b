"""Gives a child process a clock that a file moves. Python runs this when it is on PYTHONPATH.

``MOVED_CLOCK`` names the file: seconds that the coordinator's clock is ahead, or behind if less
than 0. The project is on PYTHONPATH too.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path


def _install(file: Path) -> None:
    from coordinator import clock  # noqa: PLC0415 - of no use to a process with the real time

    real = clock.utc_now

    def moved() -> datetime:
        return real() + timedelta(seconds=float(file.read_text()))

    clock.utc_now = moved


if _given := os.environ.get("MOVED_CLOCK"):
    _install(Path(_given))
