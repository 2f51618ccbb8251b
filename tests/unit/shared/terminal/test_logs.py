"""Which format a process's log has."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from coordinator.settings import CoordinatorSettings
from shared.terminal.logs import LogFormat, configure_logging
from worker.settings import WorkerSettings


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def logged(
    monkeypatch: pytest.MonkeyPatch, log_format: LogFormat | None, *, is_terminal: bool
) -> str:
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("info", log_format)
    structlog.get_logger().info("lease expired", attempt=2)
    monkeypatch.undo()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("log_format", "is_terminal"), [("json", True), ("json", False), (None, False)]
)
def test_json_is_what_is_asked_for_and_what_no_terminal_gets(
    monkeypatch: pytest.MonkeyPatch, log_format: Any, is_terminal: bool
) -> None:
    line = json.loads(logged(monkeypatch, log_format, is_terminal=is_terminal))
    assert line.keys() == {"event", "attempt", "level", "timestamp"}
    assert (line["event"], line["attempt"]) == ("lease expired", 2)


@pytest.mark.parametrize(
    ("log_format", "is_terminal"), [("console", True), ("console", False), (None, True)]
)
def test_text_is_what_is_asked_for_and_what_a_terminal_gets_in_colour(
    monkeypatch: pytest.MonkeyPatch, log_format: Any, is_terminal: bool
) -> None:
    text = logged(monkeypatch, log_format, is_terminal=is_terminal)
    assert "lease expired" in text
    assert not text.startswith("{")
    assert ("\x1b[" in text) is is_terminal


@pytest.mark.parametrize("settings", [CoordinatorSettings, WorkerSettings])
def test_both_sides_read_the_format_and_refuse_another(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings().log_format is None
    monkeypatch.setenv("HYPERFL_LOG_FORMAT", "console")
    assert settings().log_format == "console"
    monkeypatch.setenv("HYPERFL_LOG_FORMAT", "xml")
    with pytest.raises(ValidationError, match="'json' or 'console'"):
        settings()
