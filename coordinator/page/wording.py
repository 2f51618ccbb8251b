"""How the page writes numbers, sizes and times. Pure."""

from __future__ import annotations

from datetime import datetime

NOTHING = "–"

NAME_PATTERN = r"[a-z0-9][a-z0-9_.\-]{0,62}"
"""What a client or a token may be called, as browsers read it in a form."""
_FAR, _FAR_SECONDS = 1e4, 1e9
_UNITS = ("kB", "MB", "GB", "TB")


def in_bytes(size: float | None) -> str:
    """A size in the unit that reads best; 1 kB is 1,000 bytes."""
    if size is None:
        return NOTHING
    if size < 1000:
        return f"{size:.0f} B"
    for unit in _UNITS:
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size:,.0f} {_UNITS[-1]}"


def count(number: int | None) -> str:
    """A number of things."""
    return NOTHING if number is None else f"{number:,}"


def percent(share: float | None) -> str:
    """A share of 1 in percent; what is far from one, as a client may say, is written short."""
    if share is None:
        return NOTHING
    return f"{100 * share:.2f} %" if abs(share) < _FAR else f"{100 * share:.3g} %"


def number(value: float | None) -> str:
    """A measurement, to four figures."""
    return NOTHING if value is None else f"{value:.4g}"


def in_seconds(seconds: float | None) -> str:
    """A duration in its two largest units."""
    if seconds is None:
        return NOTHING
    if abs(seconds) >= _FAR_SECONDS:
        return f"{seconds:.3g} s"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def moment(when: datetime | None) -> str:
    """A moment to the second, in UTC."""
    return NOTHING if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"


def ago(when: datetime | None, now: datetime) -> str:
    """How long ago a moment was."""
    if when is None:
        return "never"
    passed = (now - when).total_seconds()
    return "just now" if passed < 1 else f"{in_seconds(round(passed))} ago"


def until(when: datetime | None, now: datetime) -> str:
    """How far off a moment is."""
    if when is None:
        return NOTHING
    left = (when - now).total_seconds()
    return (
        f"in {in_seconds(max(1, round(left)))}" if left > 0 else f"{in_seconds(round(-left))} over"
    )
