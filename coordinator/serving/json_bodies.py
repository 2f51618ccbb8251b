"""Refuses JSON bodies over a limit of size or time before they are read whole.

Updates have limits of their own.
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.serving.problem_handlers import problem_response
from shared.rest.problems import ProblemType

SPECIFICATION_BYTES = 32 << 20
OTHER_BYTES = 64 << 10

_log = structlog.get_logger()


class _Refused(Exception):
    pass


class BodyLimit:
    """ASGI middleware; passes updates (``PUT``) through, which count their own bytes and time."""

    def __init__(self, app: ASGIApp, json_body_seconds: float) -> None:
        self._app = app
        self._json_body_seconds = json_body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application with a counted body."""
        if scope["type"] != "http" or scope["method"] == "PUT":
            await self._app(scope, receive, send)
            return
        limit = SPECIFICATION_BYTES if scope["path"] == "/v1/federations" else OTHER_BYTES
        too_large = problem_response(
            ProblemType.BODY_TOO_LARGE, f"the body may have at most {limit} bytes"
        )
        if _declared_length(scope) > limit:
            await too_large(scope, receive, send)
            return
        ends_at = asyncio.get_running_loop().time() + self._json_body_seconds
        received = 0
        is_complete = started = refused = False
        refusal: Response | None = None

        async def counted_receive() -> Message:
            nonlocal received, is_complete, refusal
            if is_complete:  # what may still come is that the client hangs up
                return await receive()
            try:
                async with asyncio.timeout_at(ends_at):
                    message = await receive()
            except TimeoutError:
                refusal = self._too_slow()
                raise _Refused from None
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if received > limit:
                refusal = too_large
                raise _Refused
            return message

        async def refuse_or_send(message: Message) -> None:
            # Whatever the application makes of the exception, the answer is this one.
            nonlocal started, refused
            if started or refusal is None:
                started = True
                await send(message)
            elif not refused:
                refused = True
                await refusal(scope, receive, send)

        try:
            await self._app(scope, counted_receive, refuse_or_send)
        except _Refused:
            if refusal is not None and not (started or refused):
                await refusal(scope, receive, send)

    def _too_slow(self) -> Response:
        detail = f"the whole body did not arrive within {self._json_body_seconds:g} s"
        _log.info("body given up", after_seconds=self._json_body_seconds)
        response = problem_response(ProblemType.TOO_SLOW, detail)
        response.headers["Connection"] = "close"
        return response


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
