"""A load balancer for TCP: connections in turn to whoever of the backends takes them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_PIECE_BYTES = 1 << 16

Backend = tuple[str, int]


@asynccontextmanager
async def balancer(backends: Sequence[Backend]) -> AsyncIterator[str]:
    """Listens in front of ``backends`` until the block ends; yields its URL."""
    turn = itertools.count()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            first = next(turn)
            order = [backends[(first + step) % len(backends)] for step in range(len(backends))]
            await _connect_to_one(order, reader, writer)
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for connection in list(connections):
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


async def _connect_to_one(
    backends: Sequence[Backend], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    for host, port in backends:
        try:
            there, back = await asyncio.open_connection(host, port)
        except ConnectionError:
            continue  # it is dead; the next one
        try:
            # Either side's end is the connection's end, as it is when a backend is killed.
            pipes = {
                asyncio.create_task(_pipe(reader, back)),
                asyncio.create_task(_pipe(there, writer)),
            }
            try:
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            back.close()
        return


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
