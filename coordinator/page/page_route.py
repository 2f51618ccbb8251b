"""Routes whose answers are for browsers: strict headers, and refusals that people can read."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from coordinator.errors import Unauthenticated
from coordinator.page.rendering import render
from coordinator.serving import problem_handlers
from coordinator.serving.page_requests import FOLDER

SIGN_IN = f"{FOLDER}/sign-in"

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer; one that may be kept says so itself."""


class PageRoute(APIRoute):
    """A route of the page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI's ``APIRoute``."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                response = await handle(request)
            except Exception as error:
                response = await _answer(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if response.headers.get("location", "").startswith("/"):
                root = request.app.state.context.settings.page_path
                response.headers["location"] = root + response.headers["location"]
            return response

        return handle_page


async def _answer(request: Request, error: Exception) -> Response:
    """The sign-in for whoever looks without a session; otherwise what the interface would say."""
    is_update = "hx-request" in request.headers
    if isinstance(error, Unauthenticated) and request.method == "GET" and not is_update:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(target)}", status_code=303)
    answer = await problem_handlers.answer(request, error)
    return page_of(request, bytes(answer.body), answer.status_code, answer.headers)


def page_of(request: Request, body: bytes, status: int, headers: Mapping[str, str]) -> Response:
    """A problem document, and the headers that came with it, as a page."""
    problem = json.loads(body or b"{}")
    page = render(
        request,
        "problem.html",
        status=status,
        title=problem.get("title", "The request was not answered"),
        detail=problem.get("detail", ""),
        sign_in=SIGN_IN if status == 401 else None,
    )
    page.status_code = status
    for name in ("retry-after", "connection", "allow"):
        if name in headers:
            page.headers[name] = headers[name]
    return page
