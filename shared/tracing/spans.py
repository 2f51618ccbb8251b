"""Spans of a round, where traces are on; nothing at all where they are off.

All spans of a round are of one trace, whoever makes them: each worker, each replica of the
coordinator, before a crash and after it. Nobody hands the trace out. Both sides derive its id, and
the id of its first span, from what both know: the specification's digest and the round's number. So
nothing of it is on the wire or in the database. The coordinator that closes the round sends the
first span, from the round's beginning to its end; until then a collector shows its children alone.

A request of the worker says in ``traceparent`` (W3C Trace Context) which span it belongs to. A poll
says nothing, since it does not know its round; a poll that brings a task becomes a span afterwards.

OpenTelemetry is imported when traces are on, and not before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from shared.validation import InvalidInput

if TYPE_CHECKING:
    from shared.tracing.recorder import Recorder

Attribute = str | int
"""Of a span, by name. What is not in ``recorder.SENT_ATTRIBUTES`` is not sent."""

CLOSE_SECONDS = 3.0
_EXPORTER = "OTEL_TRACES_EXPORTER"


class TracesUnusable(InvalidInput):
    """Traces are asked for and cannot be sent: one line why."""

    @classmethod
    def without_packages(cls) -> TracesUnusable:
        """The extra is not installed."""
        return cls("HYPERFL_TRACES needs OpenTelemetry: pip install 'hyperfl[otel]'")


class _Process:
    recorder: Recorder | None = None


def current_recorder() -> Recorder | None:
    """Who records this process's spans; None where traces are off."""
    return _Process.recorder


@contextmanager
def recorded(wanted: bool, service: str, *, close_seconds: float = CLOSE_SECONDS) -> Iterator[None]:
    """Records spans during the block, and sends what is left of them at its end.

    Args:
        wanted: whether to; without it, or with OTEL_TRACES_EXPORTER=none, nothing is imported.
        service: the name of this process, unless the environment gives it another.
        close_seconds: the most that the last spans may take to be sent.

    Raises:
        TracesUnusable: the extra is not installed, or the OTEL_* variables cannot be used.
    """
    if not wanted or os.environ.get(_EXPORTER) == "none":
        yield
        return
    try:
        from shared.tracing.recorder import Recorder  # noqa: PLC0415 - the extra otel
    except ImportError as error:
        raise TracesUnusable.without_packages() from error
    try:
        recorder = Recorder(service, os.environ)
    except ValueError as error:
        raise TracesUnusable(str(error)) from error
    _Process.recorder = recorder
    try:
        yield
    finally:
        _Process.recorder = None
        recorder.close(close_seconds)


def send_rest() -> None:
    """Sends what is left, and nothing after it; before a signal that ends the process at once."""
    if (recorder := current_recorder()) is not None:
        recorder.close(CLOSE_SECONDS)


@contextmanager
def in_round(specification_digest: str, number: int) -> Iterator[None]:
    """Spans, log lines and requests of the block belong to a round."""
    if (recorder := current_recorder()) is None:
        yield
        return
    with recorder.in_round(specification_digest, number):
        yield


@contextmanager
def span(name: str, **attributes: Attribute) -> Iterator[None]:
    """The block is a span, below the one that is current; with an error, if it raises one."""
    if (recorder := current_recorder()) is None:
        yield
        return
    with recorder.span(name, attributes):
        yield


def note(**attributes: Attribute) -> None:
    """Adds to the span that is current what is known only now."""
    if (recorder := current_recorder()) is not None:
        recorder.note(attributes)


def past_span(name: str, seconds: float, **attributes: Attribute) -> None:
    """A span that ends now, and took ``seconds``."""
    if (recorder := current_recorder()) is not None:
        end = time.time_ns()
        recorder.past_span(name, end - int(seconds * 1e9), end, attributes)


def closed_round(
    specification_digest: str,
    number: int,
    opened_at: datetime,
    closed_at: datetime,
    *,
    has_failed: bool = False,
    **attributes: Attribute,
) -> None:
    """The first span of a round's trace. Call it once, where the round's end is written."""
    if (recorder := current_recorder()) is not None:
        recorder.closed_round(
            specification_digest,
            number,
            opened_at,
            closed_at,
            has_failed=has_failed,
            attributes=attributes,
        )


def request_headers() -> Mapping[str, str]:
    """``traceparent`` for a request of the span that is current; nothing without one."""
    recorder = current_recorder()
    return {} if recorder is None else recorder.request_headers()


def current_trace_id() -> str | None:
    """The trace of the span that is current: 32 hexadecimal digits."""
    recorder = current_recorder()
    return None if recorder is None else recorder.current_trace_id()
