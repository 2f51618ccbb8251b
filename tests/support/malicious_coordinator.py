"""A coordinator that lies, behind a real socket: one method for each lie.

Beside its lies it answers as the :class:`FakeCoordinator` that it was given. A lie that has no end
goes on until the worker hangs up, or for ``LONGEST_LIE_BYTES``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.support.fake_coordinator import FakeCoordinator

LONGEST_LIE_BYTES = 512 << 20


@dataclass(frozen=True)
class Lie:
    """An answer, whose ``body`` is made anew for each request and may have no end."""

    body: Callable[[], Iterable[bytes]]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


class MaliciousCoordinator:
    """Serves lies.

    Attributes:
        honest: what answers where no lie was told.
        url: where it listens.
        sent_bytes: of all lies' bodies together, as far as the system took them.
    """

    def __init__(self, honest: FakeCoordinator, url: str) -> None:
        self.honest = honest
        self.url = url
        self.sent_bytes = 0
        self._lies: dict[tuple[str, str], Lie] = {}

    def name_code(self, **names: str) -> None:
        """The specification names code of the site's machine as its ``method`` or ``model``."""
        document = self.honest.document
        self.honest.record(document | {"training": document["training"] | names})

    def lie_about(self, method: str, path: str, lie: Lie) -> None:
        """Every request whose method is this and whose path ends with ``path`` gets this."""
        self._lies[method, path] = lie

    def find_lie(self, method: str, path: str) -> Lie | None:
        """The lie for a request, if there is one."""
        for (lied_method, end), lie in self._lies.items():
            if method == lied_method and path.endswith(end):
                return lie
        return None


@contextmanager
def malicious_coordinator(honest: FakeCoordinator) -> Iterator[MaliciousCoordinator]:
    """Listens on a free port of this machine until the block ends."""

    class Handler(_Handler):
        coordinator: MaliciousCoordinator

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        host, port = server.server_address[:2]
        coordinator = MaliciousCoordinator(honest, f"http://{host!s}:{port}")
        Handler.coordinator = coordinator
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield coordinator
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    coordinator: MaliciousCoordinator

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = httpx.URL(self.coordinator.url).join(self.path)
        lie = self.coordinator.find_lie(self.command, url.path)
        if lie is None:
            request = httpx.Request(
                self.command, url, headers=list(self.headers.items()), content=content
            )
            self._tell_truth(self.coordinator.honest.reply_to(request))
        else:
            self._tell(lie)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - as the base class calls them

    def _tell_truth(self, response: httpx.Response) -> None:
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            if name != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def _tell(self, lie: Lie) -> None:
        self.close_connection = True
        try:
            self.send_response(lie.status)
            for name, value in lie.headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in lie.body():
                self.wfile.write(piece)
                self.coordinator.sent_bytes += len(piece)
                if self.coordinator.sent_bytes > LONGEST_LIE_BYTES:
                    return
        except OSError:
            pass  # the worker hung up

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: what a test wants to know it asks."""
