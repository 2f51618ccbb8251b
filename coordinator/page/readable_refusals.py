"""Refusals of requests of the page that no route of it answers: too many, or of a wrong method."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.page.page_route import HEADERS, page_of
from coordinator.serving.page_requests import is_of_page
from shared.rest.problems import MEDIA_TYPE


class ReadableRefusals:
    """ASGI middleware: a problem document becomes a page where a browser asked for one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application; answers of the interface pass as they are."""
        if scope["type"] != "http" or not is_of_page(scope["path"]):
            await self._app(scope, receive, send)
            return
        head: Message | None = None
        body = bytearray()

        async def send_readable(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start" and _is_problem(message):
                head = message
                return
            if head is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in head["headers"]
            }
            page = page_of(Request(scope), bytes(body), head["status"], headers)
            for name, value in HEADERS.items():
                page.headers.setdefault(name, value)
            await page(scope, receive, send)

        await self._app(scope, receive, send_readable)


def _is_problem(head: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(MEDIA_TYPE.encode())
        for name, value in head["headers"]
    )
