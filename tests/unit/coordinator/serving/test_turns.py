"""Few requests of a cohort are worked on at a time, and nobody slow keeps the others waiting."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Response
from starlette.types import ASGIApp, Message

from coordinator.context import Wait
from coordinator.metrics import CoordinatorMetrics
from coordinator.serving.turns import Turns

POLL, MESSAGE = "/v1/federations/tiny/task", "/v1/federations/tiny/rounds/1/exchange/join"
NO_WORK = Response(status_code=204)


def turns(app: ASGIApp, turn_seconds: float = 60.0) -> Turns:
    context: Any = SimpleNamespace(metrics=CoordinatorMetrics())
    return Turns(app, context, NO_WORK, turn_seconds)


def scope_of(path: str) -> dict[str, Any]:
    method = "GET" if path == POLL else "PUT"
    return {"type": "http", "method": method, "path": path, "state": {}}


async def never(_: Any = None) -> Any:
    await asyncio.Event().wait()


async def gone() -> Message:
    return {"type": "http.disconnect"}


def wait_for(rung: asyncio.Event, seconds: float = 60.0) -> Wait:
    return Wait(rung, asyncio.get_running_loop().time() + seconds, round_number=1)


class Sent:
    """What was sent to one client."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


@pytest.mark.parametrize(("path", "at_once"), [(POLL, 16), (MESSAGE, 8)])
async def test_few_are_worked_on_at_a_time(path: str, at_once: int) -> None:
    running = most = 0

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    bounded = turns(app)
    async with asyncio.timeout(5):
        await asyncio.gather(*(bounded(scope_of(path), never, never) for _ in range(50)))
    assert most == at_once


async def test_whose_client_is_slow_gives_up_its_turn_and_is_answered_all_the_same() -> None:
    go_on, answered = asyncio.Event(), 0

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        nonlocal answered
        await receive()
        answered += 1

    async def slowly() -> Message:
        await go_on.wait()
        return {"type": "http.request"}

    bounded = turns(app, turn_seconds=0.01)
    slow = [asyncio.ensure_future(bounded(scope_of(MESSAGE), slowly, never)) for _ in range(8)]
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
        await bounded(scope_of(MESSAGE), gone, never)
        assert answered == 1
        go_on.set()
        await asyncio.gather(*slow)
    assert answered == 9


async def test_who_waits_for_the_database_keeps_its_turn() -> None:
    go_on, begun = asyncio.Event(), 0

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        nonlocal begun
        begun += 1
        await receive()
        await go_on.wait()

    bounded = turns(app, turn_seconds=0.01)
    requests = [asyncio.ensure_future(bounded(scope_of(MESSAGE), gone, never)) for _ in range(9)]
    async with asyncio.timeout(5):
        await asyncio.sleep(0.1)
        assert begun == 8
        go_on.set()
        await asyncio.gather(*requests)
    assert begun == 9


async def test_who_fails_gives_the_turn_back() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("no database")

    bounded = turns(app)
    async with asyncio.timeout(5):
        for _ in range(20):
            with pytest.raises(RuntimeError, match="no database"):
                await bounded(scope_of(MESSAGE), never, never)


async def test_a_poll_without_work_is_put_again_when_the_bell_rings() -> None:
    rung, passes = asyncio.Event(), 0
    first_pass = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            scope["state"]["wait"] = wait_for(rung)
            first_pass.set()
            return
        assert scope["state"]["waited"].rung is rung
        await Response(status_code=200)(scope, receive, send)

    sent = Sent()
    async with asyncio.timeout(5):
        polling = asyncio.ensure_future(turns(app)(scope_of(POLL), never, sent))
        await first_pass.wait()
        assert sent.statuses == []
        rung.set()
        await polling
    assert (sent.statuses, passes) == ([200], 2)


async def test_a_poll_that_is_refused_after_it_waited_is_answered_once() -> None:
    rung = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if "waited" in scope["state"]:
            await Response(status_code=401)(scope, receive, send)
        else:
            scope["state"]["wait"] = wait_for(rung)
            rung.set()

    sent = Sent()
    async with asyncio.timeout(5):
        await turns(app)(scope_of(POLL), never, sent)
    assert sent.statuses == [401]


@pytest.mark.parametrize(("seconds", "receive"), [(0.01, never), (60.0, gone)])
async def test_a_poll_whose_time_is_over_or_client_gone_takes_no_task(
    seconds: float, receive: Any
) -> None:
    passes = 0

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        nonlocal passes
        passes += 1
        scope["state"]["wait"] = wait_for(asyncio.Event(), seconds)

    sent = Sent()
    async with asyncio.timeout(5):
        await turns(app)(scope_of(POLL), receive, sent)
    assert (sent.statuses, passes) == ([204], 1)


async def test_what_the_application_found_is_forgotten_but_what_is_counted() -> None:
    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        scope |= {"route": "a route", "path_params": {"name": "tiny"}, "endpoint": "a handler"}
        scope["state"] |= {"principal": "a client's rows", "actor": "client tiny/a"}

    scope = scope_of(POLL)
    await turns(app)(scope, never, never)
    assert scope == scope_of(POLL) | {
        "route": "a route",
        "path_params": {"name": "tiny"},
        "state": {"actor": "client tiny/a"},
    }
