"""Refuses requests that name another host than those that the settings allow."""

from __future__ import annotations

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

from coordinator.serving.request_limits import PROBES


class AllowedHosts(TrustedHostMiddleware):
    """Starlette's, but that probes come to an address and may name it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400 itself or runs the application."""
        if scope["type"] == "http" and scope["path"] in PROBES:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
