"""JSON bodies: whose they are is asked first, then they are read and parsed within limits."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from coordinator.routes.json_route import MAX_VALUES, OTHER_BYTES, SPECIFICATION_BYTES
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = [pytest.mark.integration, on_sqlite]

_JSON = {"Content-Type": "application/json"}
_PIECE = 16 << 10
_FEDERATIONS = "/v1/federations"
_ENROLMENTS = "/v1/enrolments"


class Body:
    """A body of one byte over and over, which counts the pieces that were asked for."""

    def __init__(self, size: int, byte: bytes = b"[") -> None:
        self._size = size
        self._byte = byte
        self.bytes_read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.bytes_read < self._size:
            piece = self._byte * min(_PIECE, self._size - self.bytes_read)
            self.bytes_read += len(piece)
            yield piece


def _routes(coordinator: RunningCoordinator) -> Iterator[tuple[str, str]]:
    values = {
        "federation_name": "tiny",
        "round_number": "1",
        "version": "0",
        "client_name": "a",
        "token_name": "t",
    }
    for path, methods in coordinator.app.openapi()["paths"].items():
        for method in methods:
            yield method, path.format(**values) + "?attempt=1"


async def test_no_route_reads_a_strangers_body(coordinator: RunningCoordinator) -> None:
    walked = 0
    for method, target in _routes(coordinator):
        if not target.startswith("/v1") or target.startswith(_ENROLMENTS):
            continue
        for headers in ({}, {"Authorization": "Bearer hyperfl-admin-invented"}):
            body = Body(SPECIFICATION_BYTES)
            answer = await coordinator.http.request(
                method, target, content=body, headers=_JSON | headers
            )
            assert answer.status_code == 401, (method, target, answer.text)
            assert body.bytes_read == 0, (method, target)
            walked += 1
    assert walked >= 36


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", "\x00", '{"a": 1e999999}'])
async def test_a_strangers_json_is_not_judged(coordinator: RunningCoordinator, text: str) -> None:
    for method, target in _routes(coordinator):
        if target.startswith("/v1") and not target.startswith(_ENROLMENTS):
            answer = await coordinator.http.request(method, target, content=text, headers=_JSON)
            assert answer.status_code == 401, (method, target)


async def test_only_an_administrators_specification_may_be_large(
    coordinator: RunningCoordinator,
) -> None:
    await coordinator.create(tiny_specification())
    await coordinator.enrol("tiny", "a")
    token = await coordinator.http.post(
        "/v1/tokens", json={"name": "board", "scope": "read-only"}, headers=coordinator.admin
    )
    reader = {"Authorization": f"Bearer {token.json()['token']}"}

    async def post(target: str, headers: dict[str, str], size: int) -> tuple[int, int]:
        body = Body(size, b" ")
        answer = await coordinator.http.post(target, content=body, headers=_JSON | headers)
        return answer.status_code, body.bytes_read

    admin, client = coordinator.admin, coordinator.credentials["a"]
    assert await post(_FEDERATIONS, admin, SPECIFICATION_BYTES) == (422, SPECIFICATION_BYTES)
    over = SPECIFICATION_BYTES + _PIECE
    assert await post(_FEDERATIONS, admin, 2 * SPECIFICATION_BYTES) == (413, over)
    for target, headers in (
        (_FEDERATIONS, client),
        (_FEDERATIONS, reader),
        (f"{_FEDERATIONS}/tiny/clients", admin),
        (_ENROLMENTS, {}),
    ):
        assert await post(target, headers, 2 * OTHER_BYTES) == (413, OTHER_BYTES + _PIECE)


@pytest.mark.parametrize("length", ["-1", "ten", "1e9", "9" * 5000])
async def test_a_length_that_is_no_number_is_left_to_the_count(
    coordinator: RunningCoordinator, length: str
) -> None:
    headers = _JSON | {"Content-Length": length}
    body: Any = Body(2 * OTHER_BYTES, b" ")
    answer = await coordinator.http.post(_ENROLMENTS, content=body, headers=headers)
    assert answer.status_code == 413


async def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read(
    coordinator: RunningCoordinator,
) -> None:
    body: Any = Body(OTHER_BYTES)
    headers = _JSON | {"Content-Length": str(OTHER_BYTES + 1)}
    answer = await coordinator.http.post(_ENROLMENTS, content=body, headers=headers)
    assert (answer.status_code, body.bytes_read) == (413, 0)
    assert answer.json()["type"] == "urn:hyperfl:problem:body-too-large"


@pytest.mark.parametrize("text", ["[]", "{}", '"":', "0"])
async def test_a_body_of_countless_values_is_refused_before_it_is_parsed(
    coordinator: RunningCoordinator, text: str
) -> None:
    pattern = (text + ",").encode()
    body = b"[" + pattern * ((SPECIFICATION_BYTES - 1) // len(pattern))
    tracemalloc.start()
    try:
        answer = await coordinator.http.post(
            _FEDERATIONS, content=body, headers=_JSON | coordinator.admin
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 413, answer.text
    assert str(MAX_VALUES) in answer.json()["detail"]
    assert peak < 3 * SPECIFICATION_BYTES


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("path", [_ENROLMENTS, _FEDERATIONS])
async def test_json_nested_without_end_is_an_invalid_request(
    coordinator: RunningCoordinator, path: str, opening: str
) -> None:
    answer = await coordinator.http.post(
        path,
        content=opening * (OTHER_BYTES // len(opening)),
        headers=coordinator.admin | _JSON,
    )
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "urn:hyperfl:problem:invalid-request"
    assert len(answer.content) < 4096


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3", b'{"enrolment_token": ' + b"9" * 5000])
async def test_what_json_cannot_hold_is_an_invalid_request(
    coordinator: RunningCoordinator, text: bytes
) -> None:
    answer = await coordinator.http.post(_ENROLMENTS, content=text, headers=_JSON)
    assert answer.status_code == 422, answer.text


async def test_a_body_that_stops_coming_is_given_up(database_url: str, tmp_path: Path) -> None:
    never = asyncio.Event()

    async def stops() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    async with running_coordinator(database_url, tmp_path, json_body_seconds=0.05) as coordinator:
        body: Any = stops()
        answer = await coordinator.http.post(_ENROLMENTS, content=body, headers=_JSON)
    assert answer.status_code == 408
    assert answer.json()["type"] == "urn:hyperfl:problem:too-slow"
    assert answer.headers["Connection"] == "close"


async def _hang_up(coordinator: RunningCoordinator, method: str, target: str, begin: bytes) -> None:
    """Sends the beginning of a body, then goes away."""
    messages = iter(
        [
            {"type": "http.request", "body": begin, "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Any:
        return next(messages)

    async def send(_message: Any) -> None:
        return

    path, _, query = target.partition("?")
    credential = coordinator.credentials["a"]["Authorization"].encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"authorization", credential),
            (b"content-type", b"application/vnd.safetensors"),
        ],
        "client": ("10.0.0.1", 1),
        "server": ("coordinator", 80),
        "state": {},
    }
    await coordinator.app(scope, receive, send)


async def test_a_client_that_hangs_up_is_no_error_and_leaves_no_event(
    coordinator: RunningCoordinator,
) -> None:
    specification = tiny_specification()
    await coordinator.started(specification, "a", "b")
    task = await coordinator.task("tiny", "a")
    body = update_bytes(specification, task)
    target = f"/v1/federations/tiny/rounds/1/updates/a?attempt={task['attempt']}"
    with capture_logs() as logs:
        await _hang_up(coordinator, "PUT", target, body[: len(body) // 2])
        await _hang_up(coordinator, "POST", "/v1/federations/tiny/rounds/1/heartbeat", b"{")
    assert [line for line in logs if line["log_level"] in ("error", "critical", "warning")] == []
    audit: list[dict[str, Any]] = (
        await coordinator.http.get("/v1/audit", headers=coordinator.admin)
    ).json()
    assert [one for one in audit if "a" in one["actor"].split("/")] == []
