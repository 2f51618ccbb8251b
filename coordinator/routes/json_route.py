"""Routes that know who asks before they read a body, and read it within limits.

FastAPI reads and parses a body before it asks any dependency who sent it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute

from coordinator.access.identity import Admin, ClientPrincipal
from coordinator.errors import BodyTooLarge, BodyTooSlow
from coordinator.routes.dependencies import get_context, get_principal

SPECIFICATION_BYTES = 32 << 20
"""Of the body that creates a federation, from an administrator."""
OTHER_BYTES = 64 << 10
EXCHANGE_BYTES = 1 << 20
"""From a client: its shares for the largest cohort that a secure sum may have."""
MAX_VALUES = 100_000
"""Lists, objects and their members. A specification of so many takes 0.15 s to parse and 0.09 s to
check; HyperFL's for CIFAR-10 has 257."""
_FOR_SPECIFICATIONS = "/v1/federations"
_FOR_ANYBODY = "/v1/enrolments"
_FOR_MEMBERS = "/exchange/"

_log = structlog.get_logger()


class JsonRoute(APIRoute):
    """A route whose JSON body, if it has one, comes from somebody who was identified first.

    Enrolments are for anybody: their token is in the body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI's ``APIRoute``."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            limit = await self._limit_for(request)
            json_request = _JsonRequest(request.scope, request.receive)
            await json_request.read(limit, (await get_context(request)).settings.json_body_seconds)
            if _FOR_MEMBERS not in self.path:
                return await handle(json_request)
            # A cohort sends at once. Parsed, a message is several times as large, and all wait for
            # their turn to be written.
            async with request.app.state.exchange_turns:
                return await handle(json_request)

        return handle_json

    async def _limit_for(self, request: Request) -> int:
        if self.path == _FOR_ANYBODY:
            return OTHER_BYTES
        authorization = request.headers.get("authorization")
        principal = await get_principal(request, await get_context(request), authorization)
        is_administrator = isinstance(principal, Admin) and principal.may_write
        if is_administrator and self.path == _FOR_SPECIFICATIONS:
            return SPECIFICATION_BYTES
        if isinstance(principal, ClientPrincipal) and _FOR_MEMBERS in self.path:
            return EXCHANGE_BYTES
        return OTHER_BYTES


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body of a request.

    Raises:
        BodyTooLarge: it has more than ``limit`` bytes.
        BodyTooSlow: it has not come within ``seconds``.
    """
    _check_size(_declared_length(request), limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                _check_size(len(body), limit)
    except TimeoutError:
        _log.info("body given up", after_seconds=seconds)
        raise BodyTooSlow(f"the whole body did not arrive within {seconds:g} s") from None
    return bytes(body)


class _JsonRequest(Request):
    """A request whose body is read and parsed once, before FastAPI asks for it."""

    async def read(self, limit: int, seconds: float) -> None:
        """Reads the body, and parses it if it says that it is JSON.

        Raises:
            BodyTooLarge: it has more than ``limit`` bytes, or more than :data:`MAX_VALUES` values.
            BodyTooSlow: it has not come within ``seconds``.
        """
        self._body = await read_body(self, limit, seconds)
        if sum(map(self._body.count, (b"[", b"{", b",", b":"))) > MAX_VALUES:
            raise BodyTooLarge(f"a JSON body may have at most {MAX_VALUES} values")

    async def json(self) -> Any:
        """The parsed body; of several large ones one is parsed at a time.

        Raises:
            JSONDecodeError: it is no JSON, or none that can be read.
        """
        if len(self._body) <= OTHER_BYTES:
            return _parse(self._body)
        async with self.app.state.large_bodies:
            return await asyncio.to_thread(_parse, self._body)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # no UTF-8, endless digits, or nested too deeply
        raise json.JSONDecodeError(str(error), "", 0) from error


def _check_size(num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise BodyTooLarge(f"the body may have at most {limit} bytes", expected=limit)


def _declared_length(request: Request) -> int:
    value = request.headers.get("content-length", "")
    return int(value) if value.isdecimal() and len(value) < 20 else 0
