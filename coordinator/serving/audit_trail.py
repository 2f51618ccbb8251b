"""Hands requests to the audit log: changes, refusals, and reads that show what is not one's own."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.access.credentials import find_secret
from coordinator.serving.audit_log import AuditLog, Event
from coordinator.serving.page_requests import is_of_page
from coordinator.serving.problem_handlers import HUNG_UP
from shared.terminal.redaction import redact

_READS = ("GET", "HEAD", "OPTIONS")
_NO_CHANGES = ("/heartbeat", "/exchange/join", "/exchange/confirm", "/exchange/unmask")
"""How the paths end of what clients send by the way. The update of their round leaves an event."""


_NOBODY = "anonymous"


class AuditTrail:
    """ASGI middleware, outermost of those that answer.

    Of the reads that succeed, those of administrators and readers leave an event, and every
    download of weights; a client's polls and its look at its own federation do not, nor does what
    the page shows to anybody.
    """

    def __init__(self, app: ASGIApp, audit: AuditLog) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application and writes the event before the first byte of its answer."""
        if scope["type"] != "http" or not (
            scope["path"].startswith("/v1") or is_of_page(scope["path"])
        ):
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})

        answered = False

        async def note_and_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                await self._note(scope, state, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        except Exception:
            if not answered:
                await self._note(scope, state, 500)
            raise

    async def _note(self, scope: Scope, state: dict[str, Any], status: int) -> None:
        if state.get("problem") == HUNG_UP:
            return
        is_refusal = status in (401, 403, 429) or (status >= 400 and scope["method"] not in _READS)
        is_change = scope["method"] not in _READS and not scope["path"].endswith(_NO_CHANGES)
        actor = state.get("actor", _NOBODY)
        is_own_business = actor == _NOBODY or (
            actor.startswith("client ") and "/weights/" not in scope["path"]
        )
        if not (is_refusal or is_change) and (status >= 400 or is_own_business):
            return
        secret = find_secret(scope["headers"])
        route = getattr(scope.get("route"), "path", "")
        event = Event(
            actor=redact(actor, secret),
            action=redact(f"{scope['method']} {route}", secret),
            subject=redact(state.get("subject") or _subject(scope), secret),
            address=redact((scope.get("client") or ("unknown",))[0]),
            outcome=f"{status} {state.get('problem', '')}".strip(),
        )
        if not (is_refusal or is_change):
            await self._audit.write_read(event)
            return
        # A recorded update is durable in its own table.
        durable = is_change and not is_refusal and scope["method"] != "PUT"
        await self._audit.write(event, is_refusal=is_refusal, durable=durable)


def _subject(scope: Scope) -> str:
    parameters = scope.get("path_params") or {}
    found = " ".join(f"{name}={value}" for name, value in parameters.items())
    return found or str(scope["path"])
