"""Counts requests and times them, whoever answers them."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.metrics import CoordinatorMetrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "none"
"""Of what is answered before a route is found, or has none."""
_OTHER_METHOD = "other"


class RequestMetrics:
    """ASGI middleware, outermost of all.

    Routes are counted by template and methods are those that HTTP knows, so a stranger cannot make
    new series.
    """

    def __init__(self, app: ASGIApp, metrics: CoordinatorMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application; an error that it raises counts as 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def note_and_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.monotonic()
        try:
            await self._app(scope, receive, note_and_send)
        finally:
            self._count(scope, status, time.monotonic() - started)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or _NO_ROUTE
        method = scope["method"] if scope["method"] in _METHODS else _OTHER_METHOD
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_seconds.labels(route, method).observe(seconds)
        problem = scope.get("state", {}).get("problem")
        if problem is not None:
            self._metrics.problems.labels(route, problem).inc()
