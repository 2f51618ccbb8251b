"""Answers requests for a site's page: read-only, for the names that it is asked by.

A page of somebody else's in the same browser may have a name of its own lead to this address (DNS
rebinding), and would then read this one as its own. So a request that names another is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from worker.errors import PrivateStateError
from worker.page.contents import page_contents
from worker.settings import WorkerConfig

_FOLDER = Path(__file__).parent
_HEADERS = (
    ("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class SitePage:
    """A WSGI application; see PEP 3333."""

    def __init__(self, config: WorkerConfig, hosts: frozenset[str]) -> None:
        """Show the clients of ``config`` to whoever asks by one of ``hosts``, without a port."""
        self._config = config
        self._hosts = hosts

    def __call__(
        self, environment: Mapping[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answers one request."""
        status, kind, content = self._answer(environment)
        body = content.encode()
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *_HEADERS,
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environment: Mapping[str, Any]) -> tuple[HTTPStatus, str, str]:
        if _without_port(environment.get("HTTP_HOST", "")) not in self._hosts:
            said = "This page is not shown under this name: see HYPERFL_SITE_PAGE_HOSTS."
            return HTTPStatus.FORBIDDEN, "text/plain", said
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", "This page is only read."
        path = environment.get("PATH_INFO", "")
        if path == "/style.css":
            return HTTPStatus.OK, "text/css", (_FOLDER / "style.css").read_text("utf-8")
        if path != "/":
            return HTTPStatus.NOT_FOUND, "text/plain", "There is nothing here."
        try:
            contents = page_contents(self._config)
        except PrivateStateError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", str(error)
        html = _environment().get_template("page.html").render(contents)
        return HTTPStatus.OK, "text/html", html


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()
