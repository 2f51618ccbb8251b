"""One client's requests to the coordinator. The only file of the worker that knows httpx.

What a request may come to is in ``worker.errors``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from shared.crash_points import reached
from shared.rest.problems import Problem, ProblemType
from shared.rest.schema import EnrolmentReply, FederationView, HeartbeatReply, Receipt, Task
from shared.tensors import codec
from worker.errors import FederationFinished, Refused, Unreachable
from worker.files import naming

Reply = TypeVar("Reply", bound=BaseModel)
Transport = httpx.AsyncBaseTransport

_COME_AGAIN = (408, 429)
"""As all from 500 on."""
_KNOWN = {kind.urn for kind in ProblemType}
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class CoordinatorAddress:
    """How to reach a coordinator. ``transport`` replaces the network in tests."""

    url: str
    request_timeout_seconds: float
    """Longest silence."""
    transfer_seconds: float
    """Longest request in all."""
    ca_file: Path | None = None
    transport: Transport | None = None


class CoordinatorApi:
    """Sends requests with one client's credential; retries nothing by itself."""

    def __init__(self, address: CoordinatorAddress, credential: str | None) -> None:
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        verify: ssl.SSLContext | bool = (
            True
            if address.ca_file is None
            else ssl.create_default_context(cafile=str(address.ca_file))
        )
        self._http = httpx.AsyncClient(
            base_url=address.url,
            headers=headers,
            timeout=address.request_timeout_seconds,
            verify=verify,
            transport=address.transport,
        )
        self._request_timeout_seconds = address.request_timeout_seconds
        self._transfer_seconds = address.transfer_seconds

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def enrol(self, enrolment_token: str) -> EnrolmentReply:
        """Exchanges a one-time token for a credential."""
        response = await self._send(
            "POST", "/v1/enrolments", json={"enrolment_token": enrolment_token}
        )
        return _read(EnrolmentReply, response)

    async def rotate(self, federation: str, client: str) -> EnrolmentReply:
        """A new credential; the one that this asks with ends when the new one is first used."""
        response = await self._send("POST", f"/v1/federations/{federation}/clients/{client}/rotate")
        return _read(EnrolmentReply, response)

    async def fetch_federation(self, federation: str) -> FederationView:
        """The federation with its specification."""
        response = await self._send("GET", f"/v1/federations/{federation}")
        return _read(FederationView, response)

    async def next_task(self, federation: str, wait_seconds: float) -> Task | None:
        """Work, if there is some within ``wait_seconds``.

        Raises:
            FederationFinished: there will be no more tasks.
        """
        response = await self._send(
            "GET",
            f"/v1/federations/{federation}/task",
            params={"wait": wait_seconds},
            timeout=wait_seconds + self._request_timeout_seconds,
        )
        return None if response.status_code == 204 else _read(Task, response)

    async def heartbeat(self, task: Task) -> HeartbeatReply:
        """Prolongs the task's lease."""
        response = await self._send(
            "POST",
            f"/v1/federations/{task.federation}/rounds/{task.round_number}/heartbeat",
            json={"attempt": task.attempt},
        )
        return _read(HeartbeatReply, response)

    async def put_update(self, task: Task, update: bytes) -> Receipt:
        """Sends an update; sending the same bytes again is safe."""
        response = await self._send(
            "PUT",
            f"/v1/federations/{task.federation}/rounds/{task.round_number}/updates/{task.client}",
            params={"attempt": task.attempt},
            content=update,
            headers={"Content-Type": codec.MEDIA_TYPE},
        )
        return _read(Receipt, response)

    async def fetch_weights_digest(self, federation: str, version: int) -> str:
        """The digest that a version is known by."""
        path = f"/v1/federations/{federation}/weights/{version}"
        response = await self._send("GET", path, headers={"Range": "bytes=0-0"})
        return str(response.headers.get("ETag", "")).strip('"')

    async def fetch_weights(
        self, federation: str, version: int, file: Path, *, since: int | None = None
    ) -> None:
        """Writes a version's file, or the deltas from version ``since`` on where they are less.

        What ``file`` holds already of the whole version is not asked for again.
        """
        start = file.stat().st_size if since is None and file.exists() else 0
        query = {} if since is None else {"since": since}
        headers = {"Range": f"bytes={start}-"} if start else {}
        path = f"/v1/federations/{federation}/weights/{version}"
        async with self._stream(path, query, headers) as response:
            mode = "ab" if response.status_code == 206 else "wb"
            with file.open(mode, buffering=0) as stream:
                async for piece in response.aiter_bytes(_PIECE_BYTES):
                    reached("weights-piece-received")
                    with naming(file):
                        stream.write(piece)
        reached("weights-downloaded")

    @asynccontextmanager
    async def _stream(
        self, path: str, query: dict[str, int], headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        async with (
            self._reaching(),
            self._http.stream("GET", path, params=query, headers=headers) as response,
        ):
            if response.is_error or response.is_redirect:
                await response.aread()
                _raise(response)
            if response.headers.get("Content-Type") != codec.MEDIA_TYPE:
                raise _not_ours(response)
            yield response

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        async with self._reaching():
            response = await self._http.request(method, path, **request)
        if response.is_error or response.is_redirect:
            _raise(response)
        return response

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        """Bounds one request, bodies and all: what trickles is never silent for long."""
        try:
            async with asyncio.timeout(self._transfer_seconds):
                yield
        except httpx.TransportError as error:
            raise _unreachable(error) from error
        except TimeoutError as error:
            raise Unreachable(
                f"the request was not complete after {self._transfer_seconds:g} s"
            ) from error


def _read(model: type[Reply], response: httpx.Response) -> Reply:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise _not_ours(response) from None


def _not_ours(response: httpx.Response) -> Unreachable:
    """For the page of a proxy, or of a network that wants a login."""
    return Unreachable(
        f"{response.url} answered {response.status_code}, but not as a coordinator does"
    )


def _unreachable(error: httpx.TransportError) -> Unreachable:
    reason = str(error) or type(error).__name__
    cut_off = isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)
    if cut_off and error.request.url.scheme == "http":  # as a port for TLS does
        reason += "; if it serves TLS, use an https address"
    return Unreachable(f"the coordinator does not answer: {reason}")


def _raise(response: httpx.Response) -> None:
    """A refusal is a coordinator's that says why. All else passes: nothing was decided."""
    problem = _read_problem(response)
    if problem is None or response.status_code >= 500 or response.status_code in _COME_AGAIN:
        message = str(_not_ours(response) if problem is None else Refused(problem))
        wait = response.headers.get("Retry-After", "")
        raise Unreachable(message, float(wait) if wait.isascii() and wait.isdigit() else None)
    if problem.type == ProblemType.FEDERATION_FINISHED.urn:
        raise FederationFinished(problem)
    raise Refused(problem)


def _read_problem(response: httpx.Response) -> Problem | None:
    """The problem that the answer says; None if it says none that a coordinator knows."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return None
    return problem if problem.type in _KNOWN else None
