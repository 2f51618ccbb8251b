"""A log line is bounded and holds no secret, and writing it never raises."""

from __future__ import annotations

import errno
import json
import os
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from shared.terminal.log_lines import MAX_LINE_BYTES, SteadyLogger, cut_event, render_json
from shared.terminal.logs import configure_logging

_TOKEN = "hyperfl-client-" + "x" * 43


class Failing(StringIO):
    """A stream whose first writes fail."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self._error = error
        self._times = times

    def write(self, text: str) -> int:
        if self._times:
            self._times -= 1
            raise self._error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "no space left"),
        BrokenPipeError(errno.EPIPE, "broken pipe"),
        ValueError("I/O operation on closed file"),
    ],
    ids=["full", "pipe", "closed"],
)
def test_a_stream_that_takes_nothing_loses_lines_and_says_how_many(error: Exception) -> None:
    stream = Failing(error, times=3)
    logger = SteadyLogger(stream)
    for line in ("one", "two", "three", "four", "five"):
        logger.msg(line)
    first, *rest = stream.getvalue().splitlines()
    assert json.loads(first) == {"event": "log lines lost", "lines": 3}
    assert rest == ["four", "five"]


def test_a_full_disk_under_the_log_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        configure_logging("info")
        for _ in range(10):
            structlog.get_logger().info("lease expired", attempt=1)
        with pytest.raises(OSError, match="No space"):
            full.flush()
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.close()


def test_a_log_reader_that_is_gone_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    pipe = os.fdopen(write_end, "w")
    monkeypatch.setattr(sys, "stderr", pipe)
    configure_logging("info")
    for _ in range(10):
        structlog.get_logger().info("lease expired", attempt=1)
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        pipe.close()


@given(
    st.dictionaries(
        st.sampled_from(["event", "path", "client", "name", "value", "exception", "extra"]),
        st.one_of(st.text(max_size=4000), st.integers(), st.floats(), st.binary(max_size=50)),
        min_size=1,
    )
)
def test_any_event_becomes_one_line_of_bounded_length(event: dict[str, Any]) -> None:
    line = render_json(None, "info", cut_event(None, "info", event))
    assert "\n" not in line
    assert len(line.encode(errors="backslashreplace")) <= MAX_LINE_BYTES
    assert json.loads(line).keys() == event.keys()


@pytest.mark.parametrize("name", ["event", "value", "exception"])
def test_no_token_is_logged_wherever_it_stands(name: str) -> None:
    event = {name: f"before {_TOKEN} after {[_TOKEN]}"}
    assert "xxxx" not in render_json(None, "info", cut_event(None, "info", event))


def test_of_a_traceback_the_end_stays() -> None:
    event = cut_event(None, "error", {"exception": "x\n" * 9000 + "ValueError: the reason"})
    assert event["exception"].endswith("ValueError: the reason")


def test_numbers_stay_numbers() -> None:
    event = {"event": "round committed", "round": 3, "seconds": 0.5, "is_new": True, "why": None}
    assert json.loads(render_json(None, "info", cut_event(None, "info", dict(event)))) == event
