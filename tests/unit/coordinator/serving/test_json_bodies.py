"""Bodies over the limit are refused before the application has read them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from coordinator.serving.json_bodies import OTHER_BYTES, SPECIFICATION_BYTES, BodyLimit
from coordinator.serving.problem_handlers import install

Message = dict[str, Any]
_SECONDS = 60.0


class Reader:
    """An application that reads its whole body and answers with its length."""

    def __init__(self) -> None:
        self.was_called = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.was_called = True
        length, more = 0, True
        while more:
            message = await receive()
            length += len(message["body"])
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(length).encode()})


class Exchange:
    """One request: the pieces of its body as they are asked for, and what was answered."""

    def __init__(
        self,
        pieces: list[bytes],
        path: str = "/v1/enrolments",
        method: str = "POST",
        **headers: str,
    ) -> None:
        self.scope: Any = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }
        self.pieces = pieces
        self.num_read = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        piece = self.pieces[self.num_read]
        self.num_read += 1
        more = self.num_read < len(self.pieces)
        return {"type": "http.request", "body": piece, "more_body": more}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def run(self, app: Any) -> Exchange:
        await BodyLimit(app, _SECONDS)(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


async def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    app = Reader()
    exchange = await Exchange([b"x"], content_length=str(OTHER_BYTES + 1)).run(app)
    assert exchange.status == 413
    assert b"urn:hyperfl:problem:body-too-large" in exchange.body
    assert exchange.num_read == 0
    assert not app.was_called


async def test_a_chunked_body_over_the_limit_is_refused_while_it_comes() -> None:
    piece = bytes(OTHER_BYTES // 4)
    exchange = await Exchange([piece] * 100).run(Reader())
    assert exchange.status == 413
    assert exchange.num_read == 5


async def test_a_declared_length_that_is_too_small_does_not_help() -> None:
    exchange = await Exchange([bytes(OTHER_BYTES), b"x"], content_length="1").run(Reader())
    assert exchange.status == 413


@pytest.mark.parametrize("length", ["-1", "ten", "", "1e9"])
async def test_a_length_that_is_no_number_is_left_to_the_count(length: str) -> None:
    refused = await Exchange([bytes(OTHER_BYTES + 1)], content_length=length).run(Reader())
    taken = await Exchange([bytes(OTHER_BYTES)], content_length=length).run(Reader())
    assert (refused.status, taken.status) == (413, 200)


@pytest.mark.parametrize("pieces", [[b""], [bytes(OTHER_BYTES)], [bytes(OTHER_BYTES // 2)] * 2])
async def test_a_body_within_the_limit_passes(pieces: list[bytes]) -> None:
    length = sum(map(len, pieces))
    exchange = await Exchange(pieces, content_length=str(length)).run(Reader())
    assert (exchange.status, exchange.body) == (200, str(length).encode())


async def test_a_specification_may_be_larger_than_other_bodies() -> None:
    path = "/v1/federations"
    taken = await Exchange([bytes(SPECIFICATION_BYTES)], path).run(Reader())
    refused = await Exchange([bytes(SPECIFICATION_BYTES), b"x"], path).run(Reader())
    other = await Exchange([bytes(OTHER_BYTES + 1)], path + "/tiny").run(Reader())
    assert (taken.status, refused.status, other.status) == (200, 413, 413)


async def test_updates_pass_since_they_count_their_own_bytes() -> None:
    exchange = await Exchange([bytes(OTHER_BYTES)] * 3, "/v1/updates", "PUT").run(Reader())
    assert (exchange.status, exchange.body) == (200, str(3 * OTHER_BYTES).encode())


async def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    unused: Any = None
    await BodyLimit(app, _SECONDS)({"type": "lifespan"}, unused, unused)
    assert seen == ["lifespan"]


async def test_nothing_is_answered_twice_once_the_application_has_begun() -> None:
    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await receive()

    exchange = await Exchange([bytes(OTHER_BYTES)] * 3).run(hasty)
    assert [message["type"] for message in exchange.sent] == ["http.response.start"]


async def test_a_body_that_stops_coming_is_given_up() -> None:
    never = asyncio.Event()
    exchange = Exchange([b"{"] * 3)

    async def receive() -> Message:
        if exchange.num_read == 1:
            await never.wait()
        return await exchange.receive()

    await BodyLimit(Reader(), 0.01)(exchange.scope, receive, exchange.send)
    assert exchange.status == 408
    assert b"urn:hyperfl:problem:too-slow" in exchange.body
    assert (b"connection", b"close") in exchange.sent[0]["headers"]


async def test_a_body_that_came_leaves_its_handler_all_the_time() -> None:
    async def waits_for_the_end(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.05)
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})

    exchange = Exchange([b"{}"])

    async def receive() -> Message:
        return {"type": "http.disconnect"} if exchange.num_read else await exchange.receive()

    await BodyLimit(waits_for_the_end, 0.01)(exchange.scope, receive, exchange.send)
    assert exchange.status == 200


class Body(BaseModel):
    text: str


async def test_a_handler_that_parses_json_refuses_a_chunked_body_over_the_limit() -> None:
    app = FastAPI()
    install(app)
    app.add_middleware(BodyLimit, json_body_seconds=_SECONDS)

    @app.post("/texts")
    async def texts(body: Body) -> str:
        return body.text

    async def chunked() -> Any:
        yield b'{"text": "'
        for _ in range(3):
            yield b"x" * OTHER_BYTES
        yield b'"}'

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        response = await client.post(
            "/texts", content=chunked(), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 413
    assert response.json()["type"] == "urn:hyperfl:problem:body-too-large"
