"""Builds the application: context, routes, problem handlers, and the driver beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import BaseRoute

from coordinator.access.admin_token import ensure_admin_token
from coordinator.clock import Clock, utc_now
from coordinator.context import Context
from coordinator.database.readiness import Readiness
from coordinator.database.transactions import Database
from coordinator.liveness import Pulse
from coordinator.metrics import CoordinatorMetrics
from coordinator.operations.delta_chains import DeltaChains
from coordinator.operations.metrics import Scrapes
from coordinator.operations.upload_slots import UploadSlots
from coordinator.page.readable_refusals import ReadableRefusals
from coordinator.page.router import router as page_router
from coordinator.rounds.driver import Driver
from coordinator.routes import (
    audit,
    cards,
    clients,
    exchange,
    federations,
    health,
    metrics,
    rounds,
    tasks,
    tokens,
    updates,
    weights,
)
from coordinator.serving import problem_handlers
from coordinator.serving.allowed_hosts import AllowedHosts
from coordinator.serving.audit_log import AuditLog
from coordinator.serving.audit_trail import AuditTrail
from coordinator.serving.request_limits import RequestLimits
from coordinator.serving.request_metrics import RequestMetrics
from coordinator.serving.request_spans import record_requests
from coordinator.serving.turns import Turns
from coordinator.settings import CoordinatorSettings
from coordinator.store.blobs import CHUNK_BYTES, BlobStore
from shared.rest.problems import MEDIA_TYPE, Problem

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused: the problem's type says why", **_PROBLEM},
    "5XX": {"description": "Not possible now", **_PROBLEM},
}

_EXCHANGES_AT_ONCE = 2
"""Messages of secure sums that are parsed and checked: one is written while the next is parsed."""

_log = structlog.get_logger()


def create_app(
    settings: CoordinatorSettings, clock: Clock = utc_now, *, chunk_bytes: int = CHUNK_BYTES
) -> FastAPI:
    """The coordinator on a database whose schema is up to date (see database/migrate.py).

    ``chunk_bytes`` is :class:`BlobStore`'s, for tests with little data.
    """
    database = Database(settings.effective_database_url, settings.database_limits)
    context = Context(
        database=database,
        blobs=BlobStore(database, chunk_bytes),
        settings=settings,
        clock=clock,
        metrics=CoordinatorMetrics(),
        driver_pulse=Pulse(2 * settings.database_transaction_seconds + 10 * settings.tick_seconds),
    )
    app = FastAPIOffline(
        docs_url="/docs" if settings.api_docs else None,
        redoc_url=None,
        title="HyperFL coordinator",
        summary="Keeps the rounds and the weights of federations.",
        version=version("hyperfl"),
        lifespan=_lifespan,
        redirect_slashes=False,  # a redirect would lead to whatever host the request names
        # What is sent is request_spans.py's. FastAPI itself would send errors' messages too, where
        # FASTAPI_OTEL_AUTO_CONFIGURE is set. Versions of it that send nothing ignore this.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.context = context
    app.state.delta_chains = DeltaChains()
    app.state.upload_slots = UploadSlots()
    app.state.large_bodies = asyncio.Semaphore(1)
    app.state.exchange_turns = asyncio.Semaphore(_EXCHANGES_AT_ONCE)
    app.state.readiness = Readiness(context.database, clock)
    app.state.scrapes = Scrapes(context)
    app.router.routes.extend(_routes())
    if settings.page:
        app.router.routes.extend(page_router.routes)
    problem_handlers.install(app)
    app.add_middleware(Turns, context=context, no_work=tasks.no_work())
    # Those added later are asked earlier: even what the limits refuse leaves its event.
    app.add_middleware(RequestLimits, settings=settings, clock=clock)
    app.add_middleware(AuditTrail, audit=AuditLog(context))
    if settings.allowed_hosts is not None:
        app.add_middleware(AllowedHosts, allowed_hosts=settings.allowed_hosts.split(","))
    app.add_middleware(RequestMetrics, metrics=context.metrics)
    if settings.page:
        app.add_middleware(ReadableRefusals)
    record_requests(app)
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """Made once a process: they take long to make, and hold nothing of an application."""
    together = APIRouter()
    for router in (
        federations.router,
        clients.router,
        tasks.router,
        updates.router,
        cards.router,
        exchange.router,
        weights.router,
        rounds.router,
        tokens.router,
        audit.router,
        health.router,
        metrics.router,
    ):
        together.include_router(router, responses=_PROBLEMS)
    return tuple(together.routes)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    file = context.settings.effective_admin_token_file
    if await ensure_admin_token(context.database, file, context.clock()):
        _log.info("admin token written", file=str(file))
    context.driver_pulse.beat()
    running = asyncio.create_task(Driver(context).run(), name="driver")
    context.collapse.watch(running)
    try:
        yield
    finally:
        context.tasks_bell.close()
        running.cancel()
        await asyncio.wait([running])
        await context.database.close()
