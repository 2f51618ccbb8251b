"""Bounds how many updates of one assignment come at once: each keeps its bytes while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coordinator.errors import TooManyUploads

_AT_ONCE = 2
"""A client whose connection was lost sends its update again before the loss is noticed."""
_WAIT_SECONDS = 10.0


@dataclass
class _Assignment:
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    users: int = 0


class UploadSlots:
    """The slots of one process, by client and round."""

    def __init__(self, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._assignments: dict[tuple[int, int], _Assignment] = {}

    @asynccontextmanager
    async def taken(self, client_id: int, round_number: int) -> AsyncIterator[None]:
        """Holds a slot, which may have to become free first.

        Raises:
            TooManyUploads: none did.
        """
        key = client_id, round_number
        assignment = self._assignments.setdefault(key, _Assignment())
        assignment.users += 1
        try:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    await assignment.free.acquire()
            except TimeoutError:
                raise TooManyUploads(
                    f"at most {_AT_ONCE} updates of this client for round {round_number} "
                    "may be uploaded at once"
                ) from None
            try:
                yield
            finally:
                assignment.free.release()
        finally:
            assignment.users -= 1
            if not assignment.users:
                del self._assignments[key]
