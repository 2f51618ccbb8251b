"""An answer that is made when it is its turn: a whole cohort asks at once, and each is large."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import Response
from starlette.types import Receive, Scope, Send

_TURN_SECONDS = 2.0


class AnswerInTurn(Response):
    """An answer of which few exist at a time, however many were asked for.

    ``make`` gives the answer. It runs, and the answer is sent, within one of ``turns``. Whoever
    reads for longer than ``turn_seconds`` goes on reading, and the next has its turn.
    """

    def __init__(
        self,
        turns: asyncio.Semaphore,
        make: Callable[[], Awaitable[Response]],
        turn_seconds: float = _TURN_SECONDS,
    ) -> None:
        super().__init__()
        self._turns, self._make, self._turn_seconds = turns, make, turn_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Starlette's ``Response``. What ``make`` raises is answered as if the route had."""
        async with self._turns:
            answer = await self._make()
            sending = asyncio.ensure_future(answer(scope, receive, send))
            try:
                await asyncio.wait({sending}, timeout=self._turn_seconds)
            except BaseException:
                sending.cancel()
                raise
        await sending
