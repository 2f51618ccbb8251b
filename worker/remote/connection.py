"""HTTP to the coordinator, within a site's bounds. The worker's only file that knows httpx.

What a request may come to is in ``worker.errors``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from shared.reaching import NoWay, Way, find_way, why_silent
from shared.rest.problems import Problem, ProblemType
from shared.tracing.spans import request_headers
from worker.errors import (
    AnswerTooLong,
    ConfigError,
    FederationFinished,
    NoCoordinator,
    Refused,
    Unreachable,
)
from worker.remote.bounds import JSON_BYTES, retry_after_seconds

Transport = httpx.AsyncBaseTransport

_COME_AGAIN = (408, 429)
"""As all from 500 on."""
_UNABLE = (501, 505)
"""What a server says that knows no such method. A proxy whose server is away does not."""
_KNOWN = {kind.urn for kind in ProblemType}
_NOT_PACKED = "identity"


@dataclass(frozen=True)
class CoordinatorAddress:
    """How to reach a coordinator. ``transport`` replaces the network in tests."""

    url: str
    request_timeout_seconds: float
    """Longest silence."""
    transfer_seconds: float
    """Longest request in all."""
    least_bytes_per_second: float = 8192.0
    """Of a body. What trickles is never silent, and would hold a request to its end."""
    ca_file: Path | None = None
    transport: Transport | None = None


def way_to(address: CoordinatorAddress) -> Way:
    """By which proxy it is reached, and which certificates are trusted.

    Raises:
        ConfigError: one of them cannot be used.
    """
    try:
        return find_way(address.url, address.ca_file)
    except NoWay as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class Answer:
    """An answer that is no error: ``content`` is all of its body."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    def not_ours(self, fault: str = "") -> Unreachable:
        """For the page of a proxy, of a network that wants a login, or of another server."""
        why = f": {fault}" if fault else ""
        message = f"{self.url} answered {self.status}, but not as a coordinator does{why}"
        may_be_a_proxys = self.status >= 500 and self.status not in _UNABLE
        if may_be_a_proxys or self.status in _COME_AGAIN:
            return Unreachable(message)
        return NoCoordinator(message)


@dataclass(frozen=True)
class Look:
    """What a coordinator shows to whoever asks.

    Attributes:
        answer: to ``GET /healthz``.
        peer_certificate: as :meth:`ssl.SSLSocket.getpeercert` gives it; None without TLS.
    """

    answer: Answer
    peer_certificate: Mapping[str, Any] | None


class Download:
    """An answer whose body is still to come."""

    def __init__(self, response: httpx.Response, address: CoordinatorAddress) -> None:
        self.head = Answer(str(response.url), response.status_code, response.headers, b"")
        self._response = response
        self._address = address

    def peer_certificate(self) -> Mapping[str, Any] | None:
        """The certificate that was checked before the answer came; None without TLS."""
        stream = self._response.extensions.get("network_stream")
        tls = None if stream is None else stream.get_extra_info("ssl_object")
        found: Mapping[str, Any] | None = None if tls is None else tls.getpeercert()
        return found

    async def pieces(self, max_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            AnswerTooLong: there are more than ``max_bytes`` of it.
            Unreachable: it is packed, or too slow.
        """
        url, address = self.head.url, self._address
        if (coding := self.head.headers.get("Content-Encoding", _NOT_PACKED)) != _NOT_PACKED:
            raise Unreachable(
                f"{url} answered with Content-Encoding {coding}, which was not asked for"
            )
        pieces = self._response.aiter_bytes()
        give_up_at = asyncio.get_running_loop().time() + address.request_timeout_seconds
        received = 0
        while True:
            try:
                async with asyncio.timeout_at(
                    give_up_at + received / address.least_bytes_per_second
                ):
                    piece = await anext(pieces, None)
            except TimeoutError as error:
                speed = f"{address.least_bytes_per_second:g} bytes a second"
                raise Unreachable(f"{url} answered slower than {speed}") from error
            if piece is None:
                return
            received += len(piece)
            if received > max_bytes:
                raise AnswerTooLong(f"{url} answered more than {max_bytes} bytes")
            yield piece

    async def whole(self, max_bytes: int) -> Answer:
        """All of it; raises as :meth:`pieces`."""
        content = bytearray()
        async for piece in self.pieces(max_bytes):
            content += piece
        return Answer(self.head.url, self.head.status, self.head.headers, bytes(content))


class Connection:
    """Sends requests with one client's credential; retries nothing by itself.

    An answer is read as far as its kind may be long, and no longer than its least speed takes.
    """

    def __init__(self, address: CoordinatorAddress, credential: str | None) -> None:
        headers = {"Accept-Encoding": _NOT_PACKED}
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential}"
        self.address = address
        self._way = way_to(address)
        self._http = httpx.AsyncClient(
            **self._way.client_options(),
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none is kept
            transport=address.transport,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def look(self) -> Look:
        """The coordinator's health and certificate, asked without a credential.

        Raises:
            Refused, Unreachable: as :meth:`send`.
        """
        async with self.download("GET", "/healthz") as download:
            certificate = download.peer_certificate()
            return Look(await download.whole(JSON_BYTES), certificate)

    async def send(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int = JSON_BYTES,
        silence_seconds: float = 0.0,
        **request: Any,
    ) -> Answer:
        """The answer to a request.

        Args:
            method: of HTTP.
            path: below the coordinator's address.
            max_bytes: of the answer.
            silence_seconds: that may pass before it comes, beside the longest silence.
            request: what httpx takes.

        Raises:
            Refused, Unreachable: as the answer says, or if none came.
        """
        async with self.download(method, path, silence_seconds, **request) as download:
            return await download.whole(max_bytes)

    @asynccontextmanager
    async def download(
        self, method: str, path: str, silence_seconds: float = 0.0, **request: Any
    ) -> AsyncIterator[Download]:
        """An answer that is no error; for as long as its body may take. Raises as :meth:`send`."""
        timeout = self.address.request_timeout_seconds + silence_seconds
        request["headers"] = {**request.get("headers", {}), **request_headers()}
        try:
            async with (
                asyncio.timeout(self.address.transfer_seconds),
                self._http.stream(method, path, timeout=timeout, **request) as response,
            ):
                download = Download(response, self.address)
                if response.is_error or response.is_redirect:
                    _raise(await download.whole(JSON_BYTES))
                yield download
        except httpx.TransportError as error:
            raise _unreachable(error, self._way) from error
        except TimeoutError as error:
            raise Unreachable(
                f"the request was not complete after {self.address.transfer_seconds:g} s"
            ) from error


def _unreachable(error: httpx.TransportError, way: Way) -> Unreachable:
    silence = why_silent(error, way)
    return Unreachable(silence.reason) if silence.may_heal else NoCoordinator(silence.reason)


def _raise(answer: Answer) -> None:
    """A refusal is a coordinator's that says why. All else passes: nothing was decided."""
    problem = _read_problem(answer)
    retry_after = retry_after_seconds(answer.headers.get("Retry-After", ""))
    if problem is None:
        foreign = answer.not_ours()
        foreign.retry_after_seconds = retry_after
        raise foreign
    if answer.status >= 500 or answer.status in _COME_AGAIN:
        raise Unreachable(str(Refused(problem)), retry_after)
    if problem.type == ProblemType.FEDERATION_FINISHED.urn:
        raise FederationFinished(problem)
    raise Refused(problem)


def _read_problem(answer: Answer) -> Problem | None:
    """The problem that the answer says; None if it says none that a coordinator knows."""
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        return None
    return problem if problem.type in _KNOWN else None
