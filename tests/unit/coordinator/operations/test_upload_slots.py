"""How many updates of one client for one round may come at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from coordinator.errors import TooManyUploads
from coordinator.operations.upload_slots import UploadSlots


async def test_a_third_is_refused_while_two_come() -> None:
    slots = UploadSlots(wait_seconds=0.0)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(slots.taken(1, 1))
        with pytest.raises(TooManyUploads, match="2 updates of this client for round 1"):
            await stack.enter_async_context(slots.taken(1, 1))
        for client_id, round_number in ((2, 1), (1, 2)):
            async with slots.taken(client_id, round_number):
                pass
    async with slots.taken(1, 1):
        pass
    assert not slots._assignments, "nothing is kept of what is over"


async def test_a_third_waits_until_one_has_ended() -> None:
    slots = UploadSlots(wait_seconds=60.0)
    order = []

    async def upload(number: int) -> None:
        async with slots.taken(1, 1):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(upload(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]
