"""The admin's side of the REST interface, as the commands use it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic import TypeAdapter, ValidationError

from coordinator.errors import CoordinatorSilent
from coordinator.settings import CoordinatorSettings
from shared.addresses import unprotected_host
from shared.reaching import Way, find_way, why_silent
from shared.terminal.failures import INVALID_INPUT, fail, one_line_errors
from shared.terminal.text_files import UnreadableText, read_word
from shared.validation import first_fault

_TIMEOUT_SECONDS = 60.0
_MAX_ANSWER_BYTES = 64 << 20
_NOT_PACKED = "identity"
_COME_AGAIN = (429, 502, 503, 504)
_ALLOW_PLAINTEXT = "HYPERFL_ALLOW_PLAINTEXT"

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
    """Sends an administrator's requests; a refusal ends the command with its reason.

    So does a coordinator that does not answer, unless the command catches CoordinatorSilent.
    """

    def __init__(self, client: httpx.Client, way: Way) -> None:
        self._client = client
        self._way = way

    def get(self, path: str, reply: Any, **query: Any) -> Any:
        """The answer of a ``GET``: JSON as it came, once it has been found to be a ``reply``."""
        return self._send("GET", path, reply, params=query)

    def post(self, path: str, reply: Any, body: Any) -> Any:
        """The same of a ``POST``."""
        return self._send("POST", path, reply, json=body)

    def patch(self, path: str, reply: Any, body: Any) -> Any:
        """The same of a ``PATCH``."""
        return self._send("PATCH", path, reply, json=body)

    def delete(self, path: str) -> None:
        """A ``DELETE``, whose answer says nothing."""
        self._send("DELETE", path, None)

    def _send(self, method: str, path: str, reply: Any, **request: Any) -> Any:
        content = bytearray()
        try:
            with self._client.stream(method, path, **request) as response:
                if response.headers.get("Content-Encoding", _NOT_PACKED) != _NOT_PACKED:
                    fail(f"{response.url} answered in a coding that was not asked for")
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _MAX_ANSWER_BYTES:
                        fail(f"{response.url} answered more than {_MAX_ANSWER_BYTES} bytes")
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if response.status_code in _COME_AGAIN:
            raise CoordinatorSilent(_reason(response, content))
        if not response.is_success:
            fail(_reason(response, content))
        if reply is None:
            return None
        try:
            found = json.loads(content)
            TypeAdapter(reply).validate_python(found)
        except ValidationError as error:
            fail(f"{_not_ours(response)}: {first_fault(error)}")
        except (ValueError, RecursionError):
            fail(_not_ours(response))
        return found

    def _silent(self, error: httpx.HTTPError) -> CoordinatorSilent:
        if isinstance(error, httpx.TransportError):
            silence = why_silent(error, self._way)
            if not silence.may_heal:
                fail(silence.reason)
            return CoordinatorSilent(silence.reason)
        return CoordinatorSilent(f"the coordinator at {self._way.url} does not answer: {error}")


def _reason(response: httpx.Response, content: bytes | bytearray) -> str:
    try:
        problem = json.loads(content)
        return f"{problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return _not_ours(response)


def _not_ours(response: httpx.Response) -> str:
    return f"{response.url} answered {response.status_code}, but not as a coordinator does"


@contextmanager
def connect(url: str, token_file: Path | None) -> Iterator[Connection]:
    """A connection with the admin token from ``token_file``."""
    with one_line_errors(ValueError):
        way = find_way(url, ca_file=None)
        settings = CoordinatorSettings()
        allowed = TypeAdapter(bool).validate_python(os.environ.get(_ALLOW_PLAINTEXT, "false"))
    if (host := unprotected_host(url)) is not None and not allowed:
        fail(
            f"no TLS to {host}: use an https address, or set {_ALLOW_PLAINTEXT}=true if nobody "
            "can read the network between",
            INVALID_INPUT,
        )
    file = token_file or settings.effective_admin_token_file
    try:
        token = read_word(file, "the admin token")
    except UnreadableText as error:
        fail(
            f"the admin token cannot be read: {error}; name its file with --admin-token-file",
            INVALID_INPUT,
        )
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": _NOT_PACKED}
    options = way.client_options()
    with httpx.Client(**options, headers=headers, timeout=_TIMEOUT_SECONDS) as client:
        try:
            yield Connection(client, way)
        except CoordinatorSilent as error:
            fail(str(error))
