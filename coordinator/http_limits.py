"""Bounds what a connection may cost before, between and after requests, where no handler runs.

uvicorn bounds the time between two requests alone. A head is answered by a problem document where
the client can still read one; what is silent is closed without a word.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from coordinator.problem_handlers import problem_response
from coordinator.rate_limit import RateLimiter
from coordinator.settings import CoordinatorSettings
from shared.problems import ProblemType

_FILES_BESIDE_CONNECTIONS = 64
"""For the database, the log and what else a process has open."""
_LOGGED_PER_SECOND, _LOGGED_AT_ONCE = 1.0, 10.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class HttpLimits:
    """See the settings of the same names."""

    max_connections: int
    max_target_bytes: int
    max_head_bytes: int
    max_headers: int
    head_seconds: float
    response_stall_seconds: float


def http_limits(settings: CoordinatorSettings) -> HttpLimits:
    """The settings' limits; no more connections than the process may have files open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = settings.max_connections
    if soft != resource.RLIM_INFINITY:
        possible = max(1, soft - settings.database_connections - _FILES_BESIDE_CONNECTIONS)
    if possible < settings.max_connections:
        _log.warning(
            "fewer connections than max_connections: the process may not open more files",
            max_connections=settings.max_connections,
            possible=possible,
            open_files=soft,
        )
    return HttpLimits(
        max_connections=min(settings.max_connections, possible),
        max_target_bytes=settings.max_target_bytes,
        max_head_bytes=settings.max_head_bytes,
        max_headers=settings.max_headers,
        head_seconds=settings.head_seconds,
        response_stall_seconds=settings.response_stall_seconds,
    )


def bounded_protocol(limits: HttpLimits) -> type[asyncio.Protocol]:
    """What uvicorn takes as its ``http`` class: every connection of one server keeps ``limits``."""
    refusals = RefusalLog()
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    made = functools.partial(BoundedHttp, limits, refusals)
    return cast(type[asyncio.Protocol], made)


class RefusalLog:
    """Logs why connections are closed, of each reason only so often that nobody fills the disk."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._rates = RateLimiter(_LOGGED_PER_SECOND, _LOGGED_AT_ONCE)
        self._left_out = 0

    def note(self, reason: str, address: str) -> None:
        """One connection was closed, or refused, for ``reason``."""
        if self._rates.spend(reason, self._monotonic()) > 0:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        _log.warning("connection closed", reason=reason, address=address, left_out=left_out)


class BoundedHttp(HttpToolsProtocol):
    """One connection. A timer runs whenever the next move is the client's and no handler waits."""

    def __init__(
        self,
        limits: HttpLimits,
        refusals: RefusalLog,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._refusals = refusals
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._head_bytes = 0
        """Received of a head that is not complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for a first request, or refuses the connection."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            limit = self._limits.max_connections
            self._refuse(ProblemType.UNAVAILABLE, f"{limit} connections are open")
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops what still runs for it."""
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; judges a head that is still incomplete afterwards."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._is_head_too_large():
                self._refuse_head()
        elif self._may_answer:
            self._expect_head()  # the rest of a body that was answered, or empty lines

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Hands the request on, unless its head is over a limit."""
        self._stop_head_timer()
        self._is_in_head, self._head_bytes = False, 0
        if self._is_head_too_large():
            self._refuse_head()
            raise _Refused
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """A problem document instead of uvicorn's text."""
        if not self.transport.is_closing():
            self._refuse(ProblemType.BAD_REQUEST, msg)

    def pause_writing(self) -> None:
        """The client does not read: its time runs."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """The client has read."""
        if not self.transport.is_closing():
            self._stop_write_timer()
        super().resume_writing()

    @property
    def _may_answer(self) -> bool:
        """Whether no other answer is on its way or due."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._give_up_head)

    def _expect_reading(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(
                self._limits.response_stall_seconds, self._give_up_writing
            )

    def _is_head_too_large(self) -> bool:
        num_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        return (
            len(self.url) > self._limits.max_target_bytes
            or len(self.headers) > self._limits.max_headers
            or max(num_bytes, self._head_bytes) > self._limits.max_head_bytes
        )

    def _refuse_head(self) -> None:
        limits = self._limits
        if len(self.url) > limits.max_target_bytes:
            self._refuse(
                ProblemType.TARGET_TOO_LONG,
                f"the request's target may have {limits.max_target_bytes} bytes",
            )
            return
        self._refuse(
            ProblemType.HEADERS_TOO_LARGE,
            f"a request may have {limits.max_headers} headers, "
            f"and {limits.max_head_bytes} bytes before its body",
        )

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # what is missing may have come
            self._expect_head()
        elif self._is_in_head:
            seconds = self._limits.head_seconds
            self._refuse(ProblemType.TOO_SLOW, f"no whole request came for {seconds:g} s")
        else:
            self._note("no request came")
            self.transport.close()

    def _give_up_writing(self) -> None:
        self._note("the answer was not read")
        self.transport.abort()

    def _refuse(self, kind: ProblemType, detail: str) -> None:
        """Answers with a problem, unless another answer is on its way, and closes."""
        self._note(kind.slug)
        self._stop_head_timer()
        if self._may_answer:
            response = problem_response(kind, detail)
            headers = [*response.raw_headers, (b"connection", b"close")]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(STATUS_LINE[kind.status] + lines + b"\r\n" + bytes(response.body))
        self.transport.close()
        self._expect_reading()

    def _note(self, reason: str) -> None:
        self._refusals.note(reason, (self.client or ("unknown",))[0])

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leaves out what uvicorn says of strangers; :class:`RefusalLog` says enough."""
    return not record.getMessage().startswith(("Invalid HTTP request", "Unsupported upgrade"))


class _Refused(httptools.HttpParserError):
    """Ends the parsing of a connection that was answered already."""
