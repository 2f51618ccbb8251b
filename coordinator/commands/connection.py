"""The admin's side of the REST interface, as the commands use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from coordinator.settings import CoordinatorSettings
from shared.terminal.failures import fail, one_line_errors

_TIMEOUT_SECONDS = 60.0

UrlOption = Annotated[
    str, typer.Option("--url", envvar="HYPERFL_COORDINATOR_URL", help="The coordinator's URL.")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--admin-token-file",
        envvar="HYPERFL_ADMIN_TOKEN_FILE",
        help="File with the admin token; the default is where `coordinator serve` writes it.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_URL = "http://127.0.0.1:8400"


class Connection:
    """Sends an administrator's requests; a refusal ends the command with its reason."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of a ``GET``."""
        return self._send("GET", path, params=query)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer of a ``POST``."""
        return self._send("POST", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        """The JSON answer of a ``PATCH``."""
        return self._send("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """A ``DELETE``, which has no answer."""
        self._send("DELETE", path)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            fail(f"{self._client.base_url} does not answer: {error}{_hint(error)}")
        if response.is_error:
            fail(_reason(response))
        return response.json() if response.content else None


def _hint(error: httpx.HTTPError) -> str:
    cut_off = isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)
    if cut_off and error.request.url.scheme == "http":  # as a port for TLS does
        return "; if it serves TLS, use an https address"
    return ""


def _reason(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{problem['title']}: {problem['detail']}"
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code}, but not as a coordinator does"


@contextmanager
def connect(url: str, token_file: Path | None) -> Iterator[Connection]:
    """A connection with the admin token from ``token_file``."""
    with one_line_errors():
        settings = CoordinatorSettings()
    file = token_file or settings.effective_admin_token_file
    try:
        token = file.read_text().strip()
    except OSError as error:
        fail(f"the admin token cannot be read: {error}; name its file with --admin-token-file")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS) as client:
        yield Connection(client)
