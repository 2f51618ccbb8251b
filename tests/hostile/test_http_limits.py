"""Connections and heads over the limits, at a coordinator that listens."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.exposition import samples
from tests.support.processes import ServingCoordinator, serving_coordinator

pytestmark = pytest.mark.e2e

_MAX_CONNECTIONS = 5
_TARGET_BYTES, _HEAD_BYTES, _HEADERS = 8 << 10, 64 << 10, 100
_TIMEOUT_SECONDS = 60.0


@contextmanager
def _serving(folder: Path, **limits: object) -> Iterator[ServingCoordinator]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in limits.items():
            environment.setenv(f"HYPERFL_{name.upper()}", str(value))
        with serving_coordinator(folder) as serving:
            yield serving


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingCoordinator]:
    """All as it is by default, but for the number of connections."""
    folder = tmp_path_factory.mktemp("patient")
    with _serving(
        folder, max_connections=_MAX_CONNECTIONS, max_connections_per_address=_MAX_CONNECTIONS - 1
    ) as serving:
        yield serving


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingCoordinator]:
    with _serving(
        tmp_path_factory.mktemp("impatient"),
        head_seconds=0.5,
        keep_alive_seconds=1,
        json_body_seconds=0.5,
        response_stall_seconds=0.5,
    ) as serving:
        yield serving


@contextmanager
def _connected(
    coordinator: ServingCoordinator, source: str = "127.0.0.1"
) -> Iterator[socket.socket]:
    address = urlsplit(coordinator.url)
    assert address.hostname is not None
    assert address.port is not None
    target = (address.hostname, address.port)
    with socket.create_connection(target, _TIMEOUT_SECONDS, (source, 0)) as one:
        yield one


def _read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while piece := connection.recv(1 << 16):
            answer += piece
    except ConnectionResetError:  # it was closed while there was more to read for it
        pass
    return answer


def _read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of one answer, whatever comes after it."""
    stream = connection.makefile("rb")
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, json.loads(stream.read(int(headers["content-length"])))


def _check_problem(connection: socket.socket, status: int, slug: str) -> dict[str, str]:
    found, headers, problem = _read_answer(connection)
    assert (found, problem["type"]) == (status, f"urn:hyperfl:problem:{slug}")
    assert problem["status"] == status
    assert headers["content-type"] == "application/problem+json"
    return headers


def _request(target: str = "/healthz", *headers: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: coordinator", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _target(num_bytes: int) -> str:
    return "/healthz?" + "x" * (num_bytes - len("/healthz?"))


def _many_headers(count: int) -> list[str]:
    return [f"X-{number}: x" for number in range(count - 1)]  # and Host


def _long_header(num_bytes: int) -> str:
    """Fills a head up to so many bytes: target, and for each header 4 bytes beside its text."""
    others = len("/healthz") + len("Host") + len("coordinator") + 4
    return "X-Long: " + "x" * (num_bytes - others - len("X-Long") - 4)


@pytest.mark.parametrize(
    "request_",
    [
        _request(_target(_TARGET_BYTES)),
        _request("/healthz", *_many_headers(_HEADERS)),
        _request("/healthz", _long_header(_HEAD_BYTES - 100)),
    ],
    ids=["target", "number of headers", "head"],
)
def test_what_is_within_a_limit_is_served(patient: ServingCoordinator, request_: bytes) -> None:
    with _connected(patient) as connection:
        connection.sendall(request_)
        status, _, body = _read_answer(connection)
    assert (status, body["status"]) == (200, "ok")


OVER = {
    "target": (_request(_target(_TARGET_BYTES + 1)), 414, "target-too-long"),
    "target of 300 kB": (_request(_target(300_000)), 414, "target-too-long"),
    "target without an end": (b"GET " + b"/x" * _TARGET_BYTES, 414, "target-too-long"),
    "number of headers": (
        _request("/healthz", *_many_headers(_HEADERS + 1)),
        431,
        "headers-too-large",
    ),
    "head": (_request("/healthz", _long_header(_HEAD_BYTES + 1)), 431, "headers-too-large"),
    "head of 300 kB": (_request("/healthz", _long_header(300_000)), 431, "headers-too-large"),
    "header without an end": (
        b"GET / HTTP/1.1\r\nX-Long: " + b"x" * _HEAD_BYTES,
        431,
        "headers-too-large",
    ),
    "headers without an end": (
        b"GET / HTTP/1.1\r\n" + b"X-Header: x\r\n" * (_HEADERS * 100),
        431,
        "headers-too-large",
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00 a TLS hello\r\n\r\n", 400, "bad-request"),
}


@pytest.mark.parametrize(("sent", "status", "slug"), OVER.values(), ids=OVER.keys())
def test_what_is_over_a_limit_is_refused_by_name_and_ends_the_connection(
    patient: ServingCoordinator, sent: bytes, status: int, slug: str
) -> None:
    with _connected(patient) as connection:
        connection.sendall(sent)
        headers = _check_problem(connection, status, slug)
        assert headers["connection"] == "close"
        assert _read_to_end(connection) == b""


_ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6")


@contextmanager
def _idle(
    coordinator: ServingCoordinator, addresses: Sequence[str] = _ADDRESSES
) -> Iterator[list[socket.socket]]:
    """Connections that wait for a further request, the first of them longest."""
    with ExitStack() as stack:
        connections = [stack.enter_context(_connected(coordinator, one)) for one in addresses]
        for connection in connections:
            connection.sendall(_request())
            assert _read_answer(connection)[0] == 200
        yield connections
    _wait_until_served(coordinator)


def _begin_a_body(connection: socket.socket) -> None:
    """Keeps a request from being answered; returns when its head was read."""
    connection.sendall(
        b"POST /v1/enrolments HTTP/1.1\r\nHost: coordinator\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")


def test_the_connection_that_waited_longest_makes_room_for_another(
    patient: ServingCoordinator,
) -> None:
    with _idle(patient) as connections:
        _begin_a_body(connections[0])
        with _connected(patient) as another:
            another.sendall(_request())
            assert _read_answer(another)[0] == 200
            assert _read_to_end(connections[1]) == b""
            for still_in in connections[2:]:
                still_in.sendall(_request())
                assert _read_answer(still_in)[0] == 200
            connections[0].sendall(b"x" * 100)
            assert _read_answer(connections[0])[0] == 422, "what is being answered stays"
    assert _closed_for(patient, "another connection came")


def test_open_connections_are_counted(patient: ServingCoordinator) -> None:
    token = patient.admin_token_file.read_text().strip()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(_connected(patient))
        connection = stack.enter_context(_connected(patient))
        connection.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: c\r\nConnection: close\r\n"
            b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
        )
        _head, _, body = _read_to_end(connection).partition(b"\r\n\r\n")
    assert samples(body.decode())["hyperfl_open_connections"] == {(): 3}
    _wait_until_served(patient)


def test_connections_that_never_sent_make_room(patient: ServingCoordinator) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(_connected(patient, one)) for one in _ADDRESSES]
        silent[0].sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        for _ in range(3):
            with _connected(patient) as served:
                served.sendall(_request("/readyz"))
                assert _read_answer(served)[0] == 200
    _wait_until_served(patient)


def test_connections_over_the_limit_are_told_to_come_again(patient: ServingCoordinator) -> None:
    with _idle(patient) as connections:
        for connection in connections:
            _begin_a_body(connection)
        with _connected(patient) as refused:
            headers = _check_problem(refused, 503, "unavailable")
            assert int(headers["retry-after"]) > 0
            assert _read_to_end(refused) == b""
        connections[0].sendall(b"x" * 100)
        assert _read_answer(connections[0])[0] == 422, "those who are in stay in"


def test_one_address_has_its_own_number_of_connections(patient: ServingCoordinator) -> None:
    many = ["127.0.0.2"] * (_MAX_CONNECTIONS - 1)
    with _idle(patient, many) as connections:
        with _connected(patient, "127.0.0.2") as refused:
            headers = _check_problem(refused, 429, "too-many-requests")
            assert int(headers["retry-after"]) > 0
            assert _read_to_end(refused) == b""
        with _connected(patient) as other:
            other.sendall(_request())
            assert _read_answer(other)[0] == 200
        connections[0].sendall(_request())
        assert _read_answer(connections[0])[0] == 200


def _closed_for(coordinator: ServingCoordinator, reason: str) -> list[dict[str, Any]]:
    lines = coordinator.process.log_file.read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [one for one in events if one.get("reason") == reason]


def _wait_until_served(coordinator: ServingCoordinator) -> None:
    give_up_at = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        with _connected(coordinator) as connection:
            connection.sendall(_request())
            if _read_answer(connection)[0] == 200:
                return
        assert time.monotonic() < give_up_at


def test_a_connection_that_never_sends_is_closed(impatient: ServingCoordinator) -> None:
    with _connected(impatient) as connection:
        assert _read_to_end(connection) == b""
    assert _closed_for(impatient, "no request came")


def test_a_connection_that_sends_nothing_more_is_closed(impatient: ServingCoordinator) -> None:
    with _connected(impatient) as connection:
        connection.sendall(_request())
        assert _read_answer(connection)[0] == 200
        assert _read_to_end(connection) == b""
    assert _closed_for(impatient, "no further request came")


def test_a_head_that_does_not_end_is_answered_in_time(impatient: ServingCoordinator) -> None:
    with _connected(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        _check_problem(connection, 408, "too-slow")
        assert _read_to_end(connection) == b""


@pytest.mark.parametrize("first", [b"", _request()], ids=["fresh", "used"])
def test_a_trickle_does_not_keep_a_connection_open(
    impatient: ServingCoordinator, first: bytes
) -> None:
    with _connected(impatient) as connection:
        if first:
            connection.sendall(first)
            assert _read_answer(connection)[0] == 200
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _trickle(connection)


def _trickle(connection: socket.socket) -> None:
    give_up_at = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < give_up_at:
        connection.sendall(b"\r\n")
        time.sleep(0.05)


def test_a_json_body_that_does_not_come_is_given_up(impatient: ServingCoordinator) -> None:
    with _connected(impatient) as connection:
        connection.sendall(
            b"POST /v1/enrolments HTTP/1.1\r\nHost: coordinator\r\n"
            b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"'
        )
        _check_problem(connection, 408, "too-slow")
        assert _read_to_end(connection) == b""


def test_a_client_that_does_not_read_is_cut_off(impatient: ServingCoordinator) -> None:
    log = impatient.process.log_file
    with _connected(impatient) as connection:
        connection.setblocking(False)
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        while "the answer was not read" not in log.read_text():
            assert time.monotonic() < give_up_at
            # More than any system buffers, by and by.
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                connection.send(_request("/openapi.json") * 50)
            time.sleep(0.05)


def test_the_log_says_why_connections_were_closed_and_is_no_flood(
    patient: ServingCoordinator,
) -> None:
    for _ in range(30):
        with _connected(patient) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            _check_problem(connection, 400, "bad-request")
    assert 0 < len(_closed_for(patient, "bad-request")) < 30
    assert "Invalid HTTP request" not in patient.process.log_file.read_text()
