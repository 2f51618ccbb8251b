"""Large answers exist a few at a time, and nobody who reads slowly keeps the others waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Response

from coordinator.routes.answer_in_turn import AnswerInTurn


async def never(_: Any = None) -> Any:
    await asyncio.Event().wait()


async def ask(answer: AnswerInTurn, send: Any) -> None:
    await answer({"type": "http"}, never, send)


async def test_few_answers_are_made_and_sent_at_a_time() -> None:
    turns, made, most = asyncio.Semaphore(2), 0, 0
    sent: list[bytes] = []

    async def make() -> Response:
        nonlocal made, most
        made += 1
        most = max(most, made)
        return Response(b"large")

    async def send(message: dict[str, Any]) -> None:
        nonlocal made
        await asyncio.sleep(0.001)
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            made -= 1

    async with asyncio.timeout(5):
        await asyncio.gather(*(ask(AnswerInTurn(turns, make), send) for _ in range(9)))
    assert (sent, most) == ([b"large"] * 9, 2)


async def test_a_slow_reader_gives_up_its_turn_and_is_answered_all_the_same() -> None:
    turns, read = asyncio.Semaphore(1), asyncio.Event()
    slow_messages: list[dict[str, Any]] = []
    other_messages: list[dict[str, Any]] = []

    async def make() -> Response:
        return Response(b"large")

    async def slowly(message: dict[str, Any]) -> None:
        await read.wait()
        slow_messages.append(message)

    async def at_once(message: dict[str, Any]) -> None:
        other_messages.append(message)

    async with asyncio.timeout(5):
        slow = asyncio.ensure_future(ask(AnswerInTurn(turns, make, turn_seconds=0.01), slowly))
        await asyncio.sleep(0)
        await ask(AnswerInTurn(turns, make), at_once)
        assert len(other_messages) == 2
        assert not slow.done()
        read.set()
        await slow
    assert len(slow_messages) == 2


async def test_who_makes_no_answer_gives_the_turn_back() -> None:
    turns = asyncio.Semaphore(1)

    async def fail() -> Response:
        raise RuntimeError("no database")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no database"):
            await asyncio.wait_for(ask(AnswerInTurn(turns, fail), never), 5)
    assert not turns.locked()
