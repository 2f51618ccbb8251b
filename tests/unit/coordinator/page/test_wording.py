"""How numbers, sizes and times are written on the page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coordinator.page.wording import (
    NAME_PATTERN,
    ago,
    count,
    in_bytes,
    in_seconds,
    moment,
    percent,
    until,
)
from shared.federation.specification import CLIENT_NAME

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "written"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (712_345, "712 kB"),
        (2.5e9, "2.5 GB"),
        (999_600, "1 MB"),
        (5e15, "5,000 TB"),
    ],
)
def test_sizes(size: float | None, written: str) -> None:
    assert in_bytes(size) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.99, "10.0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (200_000, "2 d 7 h"),
        (-3, "-3 s"),
        (1e308, "1e+308 s"),
        (-1e308, "-1e+308 s"),
    ],
)
def test_durations(seconds: float | None, written: str) -> None:
    assert in_seconds(seconds) == written


def test_a_forms_pattern_is_that_of_names() -> None:
    assert f"^{NAME_PATTERN}$".replace("\\-", "-") == CLIENT_NAME


@pytest.mark.parametrize("share", [1e5, -1e5, 1e307, 1.7e308])
def test_what_a_client_lies_is_written_short(share: float) -> None:
    assert len(percent(share)) < 12


def test_numbers_and_moments() -> None:
    assert (count(1234567), percent(0.98765), percent(None)) == ("1,234,567", "98.77 %", "–")
    assert (moment(NOW), moment(None)) == ("2026-01-01 00:00:00 UTC", "–")


@pytest.mark.parametrize(
    ("seconds", "before", "after"),
    [
        (0.5, "just now", "in 1 s"),
        (42, "42 s ago", "in 42 s"),
        (90, "1 min 30 s ago", "in 1 min 30 s"),
    ],
)
def test_distances(seconds: float, before: str, after: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == before
    assert until(NOW + timedelta(seconds=seconds), NOW) == after


def test_what_never_was_and_what_is_over() -> None:
    assert (ago(None, NOW), until(None, NOW)) == ("never", "–")
    assert until(NOW - timedelta(seconds=61), NOW) == "1 min 1 s over"
