"""Requests to an application as its server hands them on: any bytes, and no client's own checks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Application = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class RawRequest:
    """One request. ``target`` is percent-encoded, with its query; the body comes in pieces."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Sequence[bytes] = (b"",)
    hangs_up: bool = False
    """The client is gone when its last piece is sent, so that nothing waits for it."""


@dataclass
class RawAnswer:
    """What the application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def ask(app: Application, request: RawRequest) -> RawAnswer:
    """The application's answer, without a server or a socket between."""
    path, _, query = request.target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in (("host", "coordinator"), *request.headers)
        ],
        "client": ("127.0.0.1", 50_000),
        "server": ("coordinator", 80),
        "state": {},
    }
    ahead = list(request.pieces)
    answer = RawAnswer()

    async def receive() -> dict[str, Any]:
        if ahead:
            piece = ahead.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(ahead)}
        if not request.hangs_up:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
            }
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer
