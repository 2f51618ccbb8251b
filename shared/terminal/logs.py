"""Processes' logs: one event a line."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

from shared.terminal.log_lines import Event, SteadyLogger, cut_event, render_json
from shared.tracing.spans import current_trace_id

LogFormat = Literal["json", "console"]


def configure_logging(level: str, log_format: LogFormat | None = None) -> None:
    """Events go to stderr: JSON, one object a line, or text for people, coloured on a terminal.

    Without a format a terminal gets text, and everything else JSON. Libraries' warnings become
    events too. Where traces are on, events within a span have its ``trace_id``.
    """
    numeric_level = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[_ToEvents()], level=logging.WARNING)
    logging.raiseExceptions = False
    is_terminal = sys.stderr.isatty()
    renderer: Any = render_json
    if (log_format or ("console" if is_terminal else "json")) == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=is_terminal)
    logger = SteadyLogger()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _add_trace_id,
            cut_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=lambda *_: logger,
    )


def _add_trace_id(_logger: Any, _method: str, event: Event) -> Event:
    """A structlog processor: an event within a span says of which trace."""
    if (trace_id := current_trace_id()) is not None:
        event["trace_id"] = trace_id
    return event


class _ToEvents(logging.Handler):
    """Hands a library's log record to structlog, which bounds it and makes it one line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs one record."""
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )
