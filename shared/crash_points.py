"""Named moments at which a test may end this process, as a power failure would.

Code calls :func:`reached` where something is written, or not quite written yet. A test installs
:data:`on_reached`; unset, a call costs a comparison.
"""

from __future__ import annotations

from collections.abc import Callable

on_reached: Callable[[str], None] | None = None
"""Called with the name of every point that is passed."""


def reached(point: str) -> None:
    """This process passes ``point``."""
    if on_reached is not None:
        on_reached(point)
