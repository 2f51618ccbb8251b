"""Processes' logs: one event a line."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from shared.terminal.log_lines import SteadyLogger, cut_event, render_json


def configure_logging(level: str) -> None:
    """One event a line on stderr: JSON, or coloured text on a terminal.

    Libraries' warnings become events too.
    """
    numeric_level = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[_ToEvents()], level=logging.WARNING)
    logging.raiseExceptions = False
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else render_json
    logger = SteadyLogger(sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            cut_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=lambda *_: logger,
    )


class _ToEvents(logging.Handler):
    """Hands a library's log record to structlog, which bounds it and makes it one line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs one record."""
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )
