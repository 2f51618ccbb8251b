"""Refuses JSON bodies over a limit before they are read whole. Updates have limits of their own."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.problem_handlers import problem_response
from shared.problems import ProblemType

SPECIFICATION_BYTES = 32 << 20
OTHER_BYTES = 64 << 10


class _TooLarge(Exception):
    pass


class BodyLimit:
    """ASGI middleware; passes updates (``PUT``) through, which count their own bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application with a counted body."""
        if scope["type"] != "http" or scope["method"] == "PUT":
            await self._app(scope, receive, send)
            return
        limit = SPECIFICATION_BYTES if scope["path"] == "/v1/federations" else OTHER_BYTES
        refusal = problem_response(ProblemType.BODY_TOO_LARGE, f"the body may have {limit} bytes")
        if _declared_length(scope) > limit:
            await refusal(scope, receive, send)
            return
        received = 0
        started = refused = False

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLarge
            return message

        async def refuse_or_send(message: Message) -> None:
            # Whatever the application makes of the exception, the answer is this one.
            nonlocal started, refused
            if started or received <= limit:
                started = True
                await send(message)
            elif not refused:
                refused = True
                await refusal(scope, receive, send)

        try:
            await self._app(scope, counted_receive, refuse_or_send)
        except _TooLarge:
            if not (started or refused):
                await refusal(scope, receive, send)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
