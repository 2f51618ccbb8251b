"""Trying again while the coordinator cannot be reached, with jittered waits and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from worker.errors import NoCoordinator, Refused, Unreachable

Result = TypeVar("Result")
Sleep = Callable[[float], Awaitable[None]]

_LONGEST_WAIT_SECONDS = 30.0
"""Between two tries: a coordinator that is back is found within that, and many workers at a time
are no load for it."""
_log = structlog.get_logger()


class Patience:
    """Repeats requests that found nobody, at most for ``give_up_after_seconds``."""

    def __init__(
        self,
        give_up_after_seconds: float,
        sleep: Sleep = asyncio.sleep,
        *,
        is_found: bool = True,
        on_retry: Callable[[str], None] = lambda _doing: None,
    ) -> None:
        """Start with nothing asked.

        Args:
            give_up_after_seconds: since a request's first try.
            sleep: replaced in tests.
            is_found: whether a coordinator is known to be at the address. A wrong address does not
                heal: until there was an answer, whoever is no coordinator is not asked again.
            on_retry: told before each repetition what the request is for.
        """
        self._give_up_after_seconds = give_up_after_seconds
        self._jittered = wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_SECONDS)
        self._sleep = sleep
        self._is_found = is_found
        self._on_retry = on_retry

    async def insist(self, what: str, request: Callable[[], Awaitable[Result]]) -> Result:
        """The request's result.

        Raises:
            Unreachable: nobody answered for ``give_up_after_seconds``.
            NoCoordinator: at once, as long as nobody has found a coordinator there.
            Refused: at once; asking again would not help.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_heal),
            stop=stop_after_delay(self._give_up_after_seconds),
            wait=self._wait,
            before_sleep=lambda state: self._note(what, state),
            reraise=True,
            sleep=self._sleep,
        )

        async def attempt() -> Result:
            return await request()

        try:
            result: Result = await retrying(attempt)
            self._is_found = True
            return result
        except Refused:
            self._is_found = True
            raise
        except NoCoordinator:
            if self._is_found:
                self._give_up(what)
            raise
        except Unreachable:
            self._give_up(what)
            raise

    def _give_up(self, what: str) -> None:
        _log.error("gave up", doing=what, after_seconds=self._give_up_after_seconds)

    def _may_heal(self, error: BaseException) -> bool:
        if isinstance(error, NoCoordinator):
            return self._is_found
        return isinstance(error, Unreachable)

    def _wait(self, state: RetryCallState) -> float:
        """A jittered wait that doubles, not less than was asked for, not beyond the last try."""
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after_seconds if isinstance(error, Unreachable) else None
        remaining = self._give_up_after_seconds - (state.seconds_since_start or 0.0)
        return min(max(self._jittered(state), asked or 0.0), max(0.0, remaining))

    def _note(self, what: str, state: RetryCallState) -> None:
        self._on_retry(what)
        error = state.outcome.exception() if state.outcome is not None else None
        _log.warning(
            "coordinator not reached, trying again",
            doing=what,
            attempt=state.attempt_number,
            wait_seconds=round(state.upcoming_sleep, 2),
            error=str(error),
        )
