"""An update's bytes as they come: hashed, bounded in time, cut into pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from coordinator.errors import (
    BodyTooSlow,
)
from coordinator.operations.update_check import check_size
from coordinator.settings import CoordinatorSettings
from shared.arrays import Digest


async def digest_of(body: AsyncIterator[bytes], limit: int) -> str:
    """``sha256:<hex>`` of a body that may have ``limit`` bytes; BodyTooLarge if it has more."""
    digest = Digest()
    size = 0
    async for piece in body:
        size += len(piece)
        check_size(size, limit)
        digest.update(piece)
    return str(digest)


async def in_time(
    body: AsyncIterator[bytes], settings: CoordinatorSettings
) -> AsyncIterator[bytes]:
    """The body's pieces; raises BodyTooSlow when none comes for long, or all take too long."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + settings.upload_seconds
    while True:
        remaining = give_up_at - loop.time()
        try:
            async with asyncio.timeout(min(settings.upload_stall_seconds, remaining)):
                piece = await anext(body, None)
        except TimeoutError:
            remaining = give_up_at - loop.time()
            if remaining > 0:
                stalled = f"nothing of the body arrived for {settings.upload_stall_seconds:g} s"
                raise BodyTooSlow(stalled) from None
        if remaining <= 0:
            raise BodyTooSlow(f"the body did not arrive within {settings.upload_seconds:g} s")
        if piece is None:
            return
        yield piece


async def rechunked(body: AsyncIterator[bytes], chunk_bytes: int) -> AsyncIterator[bytes]:
    """The body in pieces of a chunk, so that the work on each is worth a thread's attention."""
    buffer = bytearray()
    async for piece in body:
        buffer += piece
        if len(buffer) >= chunk_bytes:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)
