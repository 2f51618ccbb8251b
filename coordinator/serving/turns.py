"""Turns: requests of which a whole cohort sends one at once, and few are worked on at a time.

A request that waits for its turn, or a poll that waits for work, holds its connection and its head.
Nothing of the application runs for it meanwhile. Of its body is there what uvicorn reads ahead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.context import Context, Wait

POLL = "/task"
MESSAGE = "/exchange/"
_POLLS_AT_ONCE = 16
_MESSAGES_AT_ONCE = 8
TURN_SECONDS = 2.0
_FOR_ONE_PASS = ("principal", "token_is_valid")
"""What of a request's state is of one pass through the application."""
_FOR_THOSE_AROUND = ("route", "path_params")
"""What the audit and the metrics are told of a request by the application."""

_Ask = Callable[..., Awaitable[Any]]


class Turns:
    """ASGI middleware, innermost: polls and messages of secure sums pass it a few at a time.

    A client that lets its turn wait for longer than ``turn_seconds``, to send its body or to read
    its answer, gives it up: it goes on, and the next has its turn. A poll for which there is no
    work yet is put to the application again when the bell of its federation rings: the route leaves
    a :class:`Wait` in ``scope["state"]["wait"]``, and finds it in ``"waited"``.
    """

    def __init__(
        self,
        app: ASGIApp,
        context: Context,
        no_work: ASGIApp,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._app, self._context, self._no_work = app, context, no_work
        self._turn_seconds = turn_seconds
        self._polls = asyncio.Semaphore(_POLLS_AT_ONCE)
        self._messages = asyncio.Semaphore(_MESSAGES_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application when it is the request's turn."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        known = frozenset(scope) | frozenset(_FOR_THOSE_AROUND)
        if scope["method"] == "GET" and scope["path"].endswith(POLL):
            await self._poll(scope, receive, send, known)
            return
        turns = self._messages if MESSAGE in scope["path"] else None
        await self._pass(scope, receive, send, known, turns)

    async def _poll(
        self, scope: Scope, receive: Receive, send: Send, known: frozenset[str]
    ) -> None:
        state = scope["state"]
        await self._pass(scope, receive, send, known, self._polls)
        while (wait := state.pop("wait", None)) is not None:
            with self._context.metrics.open_polls.track_inprogress():
                rang = await _rings(wait, receive)
            if not rang:
                await self._no_work(scope, receive, send)
                return
            state["waited"] = wait
            await self._pass(scope, receive, send, known, self._polls)

    async def _pass(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        known: frozenset[str],
        turns: asyncio.Semaphore | None,
    ) -> None:
        try:
            if turns is None:
                await self._app(scope, receive, send)
                return
            async with _Turn(turns, self._turn_seconds) as turn:
                await self._app(scope, turn.watched(receive), turn.watched(send))
        finally:
            # An idle connection, too, keeps the scope of its last request.
            for name in scope.keys() - known:
                del scope[name]
            for name in _FOR_ONE_PASS:
                scope["state"].pop(name, None)


class _Turn:
    """A place among those that are worked on, which a client that keeps it waiting gives up."""

    def __init__(self, places: asyncio.Semaphore, seconds: float) -> None:
        self._places, self._seconds_left = places, seconds
        self._is_held = False

    async def __aenter__(self) -> _Turn:
        await self._places.acquire()
        self._is_held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def watched(self, ask: _Ask) -> _Ask:
        """``ask`` waits for the client: the turn ends if that takes too long altogether."""

        async def ask_in_time(*arguments: Any) -> Any:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            timer = loop.call_later(self._seconds_left, self._end)
            try:
                return await ask(*arguments)
            finally:
                timer.cancel()
                self._seconds_left = max(0.0, self._seconds_left - (loop.time() - begun))

        return ask_in_time

    def _end(self) -> None:
        if self._is_held:
            self._is_held = False
            self._places.release()


async def _rings(wait: Wait, receive: Receive) -> bool:
    """Whether the bell rings before the time is over or the client is gone."""
    loop = asyncio.get_running_loop()
    if wait.rung.is_set():
        return True
    ringing: asyncio.Future[Any] = asyncio.ensure_future(wait.rung.wait())
    leaving: asyncio.Future[Any] = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait(
            {ringing, leaving},
            timeout=wait.give_up_at - loop.time(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        return ringing.done() and not leaving.done()
    finally:
        ringing.cancel()
        leaving.cancel()


async def _hung_up(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
