"""A coordinator that lies, behind a real socket: one method for each lie.

Beside its lies it answers as the :class:`FakeCoordinator` that it was given. A lie that has no end
goes on until the worker hangs up, or for ``LONGEST_LIE_BYTES``.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any

import httpx

from shared.rest.problems import Problem, ProblemType
from shared.tensors import codec
from tests.support.fake_coordinator import FakeCoordinator

LONGEST_LIE_BYTES = 256 << 20
_PIECE_BYTES = 64 << 10


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
        self._closed = threading.Event()
        self._lies: dict[tuple[str, str], Lie] = {}

    def name_code(self, **names: str) -> None:
        """The specification names code of the site's machine as its ``method`` or ``model``."""
        document = self.honest.document
        self.honest.record(document | {"training": document["training"] | names})

    def bomb(self, method: str, path: str, unpacked_bytes: int) -> None:
        """An answer that was packed by gzip, and is a thousand times as large when it is not."""
        packed = gzip.compress(b" " * unpacked_bytes)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        self.lie_about(method, path, Lie(lambda: [packed], headers=headers))

    def answer_without_end(self, method: str, path: str, status: int = 200) -> None:
        """JSON that never ends; with another ``status`` it would be a problem document."""
        body = partial(chain, [b'{"type": "'], repeat(b"x" * _PIECE_BYTES))
        kind = "application/json" if status < 400 else "application/problem+json"
        self.lie_about(method, path, Lie(body, status, {"Content-Type": kind}))

    def send_weights_without_end(self) -> None:
        """In place of any version, or of deltas."""
        headers = {"Content-Type": codec.MEDIA_TYPE}
        for version in range(10):
            lie = Lie(partial(repeat, b"\0" * _PIECE_BYTES), headers=headers)
            self.lie_about("GET", f"/weights/{version}", lie)

    def trickle(self, method: str, path: str, pause_seconds: float = 0.01) -> None:
        """A byte at a time, for as long as anybody listens."""
        kind = codec.MEDIA_TYPE if "/weights/" in path else "application/json"

        def bytes_with_pauses() -> Iterator[bytes]:
            while not self._closed.wait(pause_seconds):
                yield b" "

        self.lie_about(method, path, Lie(bytes_with_pauses, headers={"Content-Type": kind}))

    def go_back(self, version: int) -> None:
        """Others are the weights of a version now, as after a restored backup and another round."""
        weights = self.honest.versions[version]
        self.honest.versions[version] = {name: array + 1 for name, array in weights.items()}
        for tasks in self.honest.tasks.values():
            for index, task in enumerate(tasks):
                digest = self.honest.digest(task.base_version)
                tasks[index] = task.model_copy(update={"base_digest": digest})

    def tell_the_truth(self) -> None:
        """No lie from now on."""
        self._lies.clear()

    def change_task(self, **members: Any) -> None:
        """Every task is alice's first one with other members."""
        document = self.honest.tasks["alice"][0].model_dump(mode="json") | members
        self.answer_with("GET", "/task", document)

    def change_federation(self, **members: Any) -> None:
        """The federation is shown with other members."""
        view = self.honest.reply_to(httpx.Request("GET", f"{self.url}/v1/federations/tiny"))
        self.answer_with("GET", "/federations/tiny", view.json() | members)

    def ask_for_images_of(self, *image_shape: int) -> None:
        """The specification's model takes images of any size."""
        document = self.honest.document
        training = document["training"] | {"image_shape": image_shape}
        self.honest.record(document | {"training": training})

    def ask_for_weights_of(self, *shape: int) -> None:
        """The specification shares one more tensor, of any shape."""
        document = self.honest.document
        rows = [{"rows": shape[0], "centre": 0.0, "bound": 0.0}]
        tensor = {"name": "hypernetwork.more", "shape": shape, "initialisation": rows}
        parameters = document["parameters"]
        tensors = [*parameters["tensors"], tensor]
        self.honest.record(document | {"parameters": parameters | {"tensors": tensors}})

    def speak_to_the_terminal(self, words: str) -> None:
        """Refuses everything, in words for the terminal that they are printed on."""
        document = Problem.of(ProblemType.FORBIDDEN, words).model_dump() | {"title": words}
        body = json.dumps(document).encode()
        for method in ("GET", "POST", "PUT"):
            self.lie_about(method, "", Lie(lambda: [body], ProblemType.FORBIDDEN.status))

    def answer_with(self, method: str, path: str, document: Any, status: int = 200) -> None:
        """JSON of any content; NaN and infinities are written as Python does."""
        body = json.dumps(document).encode()
        self.lie_about(method, path, Lie(lambda: [body], status))

    def lie_about(self, method: str, path: str, lie: Lie) -> None:
        """Every request whose method is this and whose path ends with ``path`` gets this."""
        self._lies[method, path] = lie

    def close(self) -> None:
        """Ends what has no end."""
        self._closed.set()

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
            coordinator.close()
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
