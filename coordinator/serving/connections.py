"""Bounds what a connection may cost before, between and after requests, where no handler runs.

uvicorn bounds only the time between two requests. A head is answered by a problem document where
the client can still read one; what is silent is closed without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from coordinator.serving.open_connections import OpenConnections
from coordinator.serving.problem_handlers import problem_response
from coordinator.serving.refusal_log import RefusalLog
from coordinator.settings import CoordinatorSettings
from shared.rest.problems import ProblemType

_FILES_BESIDE_CONNECTIONS = 64
"""For the database, the log and what else a process has open."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class ConnectionLimits:
    """See the settings of the same names."""

    max_connections: int
    max_connections_per_address: int
    max_target_bytes: int
    max_head_bytes: int
    max_headers: int
    head_seconds: float
    response_stall_seconds: float


def connection_limits(settings: CoordinatorSettings) -> ConnectionLimits:
    """The settings' limits; no more connections than the process may have files open.

    It may open as many as the system lets it from now on.
    """
    open_files = _raise_open_files()
    possible = settings.max_connections
    if open_files != resource.RLIM_INFINITY:
        possible = max(1, open_files - settings.database_connections - _FILES_BESIDE_CONNECTIONS)
    max_connections = min(settings.max_connections, possible)
    if possible < settings.max_connections:
        _log.warning(
            "max_connections is lowered: the process may not open more files",
            max_connections=settings.max_connections,
            possible=possible,
            open_files=open_files,
        )
    return ConnectionLimits(
        max_connections=max_connections,
        max_connections_per_address=(
            settings.max_connections_per_address or max(1, max_connections // 2)
        ),
        max_target_bytes=settings.max_target_bytes,
        max_head_bytes=settings.max_head_bytes,
        max_headers=settings.max_headers,
        head_seconds=settings.head_seconds,
        response_stall_seconds=settings.response_stall_seconds,
    )


def _raise_open_files() -> int:
    """How many files the process may have open, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # where the system has another limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def bounded_protocol(
    limits: ConnectionLimits, connections: OpenConnections[BoundedHttp]
) -> type[asyncio.Protocol]:
    """What uvicorn takes as its ``http`` class: one server's connections, which keep ``limits``."""
    refusals = RefusalLog("connection closed")
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    return cast(type[asyncio.Protocol], partial(BoundedHttp, limits, refusals, connections))


class BoundedHttp(HttpToolsProtocol):
    """One connection. A timer runs whenever the next move is the client's and no handler waits."""

    def __init__(
        self,
        limits: ConnectionLimits,
        refusals: RefusalLog,
        open_connections: OpenConnections[BoundedHttp],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._refusals = refusals
        self._open = open_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._head_bytes = 0
        """Received of a head that is not complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for a first request, in place of another connection if need be, or refuses."""
        super().connection_made(transport)
        self._open.add(self, self._address)
        limit = self._limits.max_connections_per_address
        if self._open.count_from(self._address) > limit:
            detail = f"at most {limit} connections may be open from this address"
            self._refuse(ProblemType.TOO_MANY_REQUESTS, detail)
            return
        limit = self._limits.max_connections
        if len(self._open) > limit:
            other = self._open.pop_longest_waiting()
            if other is None:
                self._refuse(ProblemType.UNAVAILABLE, f"at most {limit} connections may be open")
                return
            other.make_room()
        self._open.begin_wait(self)
        self._expect_head()

    def make_room(self) -> None:
        """Ends a connection that waits for a request's head, because another came."""
        self._note("another connection came")
        self.transport.abort()  # what is closed in order, over TLS, waits for the other side

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops what still runs for it."""
        self._stop_head_timer()
        self._stop_write_timer()
        self._open.remove(self)
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
        self._open.end_wait(self)
        self._is_in_head, self._head_bytes = False, 0
        if self._is_head_too_large():
            self._refuse_head()
            raise _Refused
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Waits for a further request, unless one has come already."""
        super().on_response_complete()
        if self._may_answer and not self.transport.is_closing():
            self._open.begin_wait(self)

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        if not self.transport.is_closing():
            self._note("no further request came")
        super().timeout_keep_alive_handler()

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
                f"the request's target may have at most {limits.max_target_bytes} bytes",
            )
            return
        self._refuse(
            ProblemType.HEADERS_TOO_LARGE,
            f"a request may have at most {limits.max_headers} headers, "
            f"and at most {limits.max_head_bytes} bytes before its body",
        )

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # what is missing may have come
            self._expect_head()
        elif self._is_in_head:
            seconds = self._limits.head_seconds
            self._refuse(ProblemType.TOO_SLOW, f"no whole request arrived for {seconds:g} s")
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
        self._refusals.note(reason, self._address)

    @property
    def _address(self) -> str:
        return (self.client or ("unknown",))[0]

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leaves out what :class:`RefusalLog` and ``problem_handlers`` say better."""
    return not record.getMessage().startswith(
        ("Invalid HTTP request", "Unsupported upgrade", "Exception in ASGI application")
    )


class _Refused(httptools.HttpParserError):
    """Ends the parsing of a connection that was answered already."""
