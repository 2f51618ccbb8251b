"""The server: its certificate, its limits, where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from coordinator.context import Context
from coordinator.errors import TaskEnded
from coordinator.serving.connections import BoundedHttp, bounded_protocol, connection_limits
from coordinator.serving.open_connections import OpenConnections
from coordinator.settings import CoordinatorSettings
from shared.tracing.spans import send_rest


def check_certificate(settings: CoordinatorSettings) -> None:
    """Raises ValueError with the files' names; what OpenSSL says has none."""
    if settings.tls_certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        raise ValueError(
            f"{settings.tls_certificate} and {settings.tls_key} are not a certificate and its "
            f"key: {error}"
        ) from error


def bind(settings: CoordinatorSettings) -> list[socket.socket]:
    """Sockets on every address that the host has, which do not listen yet.

    Raises:
        ValueError: somebody else has the port, or the host is none of this machine's.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            bound.append(socket.socket(family, kind, protocol))
            bound[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound[-1].bind(address)
    except OSError as error:
        for one in bound:
            one.close()
        raise ValueError(
            f"port {settings.port} of {settings.host} cannot be listened on: {error.strerror}"
        ) from error
    return bound


def serve(app: FastAPI, settings: CoordinatorSettings, sockets: Sequence[socket.socket]) -> bool:
    """Serves ``app`` on ``sockets`` until a signal ends it; whether it could begin at all.

    Raises:
        TaskEnded: a task that the coordinator cannot do without has ended.
    """
    context: Context = app.state.context
    connections: OpenConnections[BoundedHttp] = OpenConnections()
    context.metrics.open_connections.set_function(connections.__len__)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        http=bounded_protocol(connection_limits(settings), connections),
        ws="none",
        backlog=settings.listen_backlog,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = _Server(config, context)
    server.run(list(sockets))
    if context.collapse.reason is not None:
        raise TaskEnded(context.collapse.reason)
    return server.started


class _Server(uvicorn.Server):
    """Says where it listens, and ends long polls when it is told to stop."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    async def startup(self, sockets: Any = None) -> None:
        """Starts to listen, then says where: with port 0 only now is it known."""
        await super().startup(sockets)
        for server in getattr(self, "servers", []):
            for one in server.sockets:
                host, port = one.getsockname()[:2]
                structlog.get_logger().info("listening", host=host, port=port)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now; asked ten times a second."""
        return await super().on_tick(counter) or self._context.collapse.reason is not None

    async def shutdown(self, sockets: Any = None) -> None:
        """Ends long polls, so that stopping does not wait for them.

        The signal that stopped the server is raised again after this: it ends the process.
        """
        self._context.tasks_bell.close()
        await super().shutdown(sockets)
        await asyncio.to_thread(send_rest)
