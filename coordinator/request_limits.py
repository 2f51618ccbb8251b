"""Refuses requests that are too many: at once, from one address, or with one token."""

from __future__ import annotations

import hashlib
import math

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.context import Clock
from coordinator.problem_handlers import problem_response
from coordinator.rate_limit import RateLimiter
from coordinator.settings import CoordinatorSettings
from shared.problems import ProblemType

_BURST_SECONDS = 10.0
_PROBES = ("/healthz", "/readyz", "/metrics")


class RequestLimits:
    """ASGI middleware. A token is trusted with its own rate once it was found valid.

    ``scope["state"]["token_is_valid"]`` is called by whoever found that out. Until then, and
    without a token, a request counts among its address's unauthenticated ones.
    """

    def __init__(self, app: ASGIApp, settings: CoordinatorSettings, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._max_concurrent = settings.max_concurrent_requests
        self._running = 0
        self._addresses = _limiter(settings.requests_per_second_per_address)
        self._strangers = _limiter(settings.unauthenticated_requests_per_second_per_address)
        self._tokens = _limiter(settings.requests_per_second_per_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself or runs the application."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._running >= self._max_concurrent:
            busy = f"{self._max_concurrent} requests are being answered"
            await problem_response(ProblemType.UNAVAILABLE, busy)(scope, receive, send)
            return
        wait_seconds = self._wait_seconds(scope)
        if wait_seconds > 0:
            refusal = problem_response(
                ProblemType.TOO_MANY_REQUESTS,
                f"come again in {wait_seconds:.1f} seconds",
                retry_after_seconds=math.ceil(wait_seconds),
            )
            await refusal(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1

    def _wait_seconds(self, scope: Scope) -> float:
        now = self._clock().timestamp()
        address = (scope.get("client") or ("unknown",))[0]
        wait_seconds = self._addresses.spend(address, now)
        if wait_seconds > 0 or not scope["path"].startswith("/v1"):
            return wait_seconds
        key = _token_key(scope)
        if key is not None and self._tokens.knows(key):
            return self._tokens.spend(key, now)
        if key is not None:
            scope.setdefault("state", {})["token_is_valid"] = lambda: self._tokens.spend(key, now)
        return self._strangers.spend(address, now)


def _limiter(per_second: float) -> RateLimiter:
    return RateLimiter(per_second, max(1.0, per_second * _BURST_SECONDS))


def _token_key(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return hashlib.sha256(value).hexdigest()
    return None
