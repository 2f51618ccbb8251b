"""Refuses requests that are too many: at once, from one address, or with one token."""

from __future__ import annotations

import math
from collections import Counter

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.access.credentials import find_bearer_token, token_digest
from coordinator.clock import Clock
from coordinator.serving.page_requests import is_of_page, session_secret
from coordinator.serving.problem_handlers import problem_response
from coordinator.serving.rate_limiter import RateLimiter
from coordinator.serving.refusal_log import RefusalLog
from coordinator.settings import CoordinatorSettings
from shared.rest.problems import ProblemType

_BURST_SECONDS = 10.0
_BUSY_SECONDS = 2
_HEALTH = ("/healthz", "/readyz")
_METRICS = "/metrics"
PROBES = (*_HEALTH, _METRICS)


class RequestLimits:
    """ASGI middleware. A token is trusted with its own rate once it was found valid.

    ``scope["state"]["token_is_valid"]`` is called by whoever found that out. Until then, and
    without a token, a request counts among its address's unauthenticated ones. Health is told
    always, and metrics however many requests run: that is when they are needed. What a token is to
    the interface, a session is to the page.
    """

    def __init__(self, app: ASGIApp, settings: CoordinatorSettings, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._settings = settings
        self._max_concurrent = settings.max_concurrent_requests
        self._max_concurrent_per_token = settings.max_concurrent_requests_per_token
        self._running = 0
        self._running_per_token: Counter[str] = Counter()
        self._refusals = RefusalLog("request refused")
        self._addresses = _limiter(settings.requests_per_second_per_address)
        self._strangers = _limiter(settings.unauthenticated_requests_per_second_per_address)
        self._tokens = _limiter(settings.requests_per_second_per_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself or runs the application."""
        if scope["type"] != "http" or scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        if is_of_page(scope["path"]):
            token = session_secret(scope, self._settings)
        else:
            token = find_bearer_token(scope["headers"])
        key = None if token is None else token_digest(token)
        refusal = self._refusal(scope, key)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._begin(key)
        try:
            await self._app(scope, receive, send)
        finally:
            self._end(key)

    def _refusal(self, scope: Scope, key: str | None) -> Response | None:
        """The answer to a request that is one too many. ``key`` is its token's digest."""
        address = (scope.get("client") or ("unknown",))[0]
        if self._running >= self._max_concurrent and scope["path"] != _METRICS:
            self._refusals.note("max_concurrent_requests", address)
            busy = f"the coordinator answers at most {self._max_concurrent} requests at once"
            return problem_response(ProblemType.UNAVAILABLE, busy)
        wait_seconds = self._wait_seconds(scope, address, key)
        if wait_seconds > 0:
            return problem_response(
                ProblemType.TOO_MANY_REQUESTS,
                f"try again in {wait_seconds:.1f} s",
                retry_after_seconds=math.ceil(wait_seconds),
            )
        if key is not None and self._running_per_token[key] >= self._max_concurrent_per_token:
            self._refusals.note("max_concurrent_requests_per_token", address)
            busy = f"a token may have at most {self._max_concurrent_per_token} requests at once"
            return problem_response(
                ProblemType.TOO_MANY_REQUESTS, busy, retry_after_seconds=_BUSY_SECONDS
            )
        return None

    def _begin(self, key: str | None) -> None:
        self._running += 1
        if key is not None:
            self._running_per_token[key] += 1

    def _end(self, key: str | None) -> None:
        self._running -= 1
        if key is not None:
            self._running_per_token[key] -= 1
            if not self._running_per_token[key]:
                del self._running_per_token[key]

    def _wait_seconds(self, scope: Scope, address: str, key: str | None) -> float:
        now = self._clock().timestamp()
        wait_seconds = self._addresses.spend(address, now)
        is_watched = scope["path"].startswith(("/v1", _METRICS)) or is_of_page(scope["path"])
        if wait_seconds > 0 or not is_watched:
            return wait_seconds
        if key is not None and self._tokens.knows(key):
            return self._tokens.spend(key, now)
        if key is not None:
            scope.setdefault("state", {})["token_is_valid"] = lambda: self._tokens.spend(key, now)
        return self._strangers.spend(address, now)


def _limiter(per_second: float) -> RateLimiter:
    return RateLimiter(per_second, max(1.0, per_second * _BURST_SECONDS))
