"""What a log line is made of: redacted, cut and bounded, and written without ever raising."""

from __future__ import annotations

import json
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

from shared.terminal.printable import printable_lines
from shared.terminal.redaction import redact, redact_tokens

MAX_LINE_BYTES = 2000
_EXCEPTION = "exception"
_LONGEST_TRACEBACK = 1200
"""Of a traceback the end is kept: where it was raised, and what was said."""

Event = MutableMapping[str, Any]


def cut_event(_logger: Any, _method: str, event: Event) -> Event:
    """A structlog processor: no value has a token, a control character or more than 200 characters.

    Numbers stay as they are; everything else becomes text. A traceback keeps its lines and its end.
    """
    for name, value in event.items():
        if name == _EXCEPTION:
            event[name] = printable_lines(redact_tokens(str(value))[-_LONGEST_TRACEBACK:])
        elif not (value is None or isinstance(value, bool | int | float)):
            event[name] = redact(str(value))
    return event


def render_json(_logger: Any, _method: str, event: Event) -> str:
    """A structlog renderer: one JSON object of at most :data:`MAX_LINE_BYTES` bytes.

    If need be the longest texts lose their first half until the object fits.
    """
    while True:
        line = json.dumps(event, ensure_ascii=False, default=str)
        if len(line.encode(errors="backslashreplace")) < MAX_LINE_BYTES:
            return line
        longest = max(event, key=lambda name: len(str(event[name])))
        text = str(event[longest])
        event[longest] = text[len(text) // 2 + 1 :]


class SteadyLogger:
    """Writes lines to a stream; what cannot be written is counted and otherwise forgotten.

    Without a stream, to whatever stderr is at the time: a line that shows progress takes its place.

    A full disk or a reader that is gone must never end what was about to be logged.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lost = 0

    def msg(self, line: str) -> None:
        """Writes one line, and before it how many were lost."""
        try:
            if self._lost:
                self._write(f'{{"event": "log lines lost", "lines": {self._lost}}}')
                self._lost = 0
            self._write(line)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._lost += 1

    def _write(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()

    debug = info = warning = error = critical = exception = log = msg
