"""Builds the application: context, routes, problem handlers, and the driver beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI

from coordinator import problem_handlers
from coordinator.audit import AuditLog
from coordinator.audit_trail import AuditTrail
from coordinator.auth import ensure_admin_token
from coordinator.body_limit import BodyLimit
from coordinator.context import Clock, Context, utc_now
from coordinator.database import Database
from coordinator.driver import Driver
from coordinator.metrics import CoordinatorMetrics
from coordinator.readiness import Readiness
from coordinator.request_limits import RequestLimits
from coordinator.routes import access, clients, federations, health, rounds, tasks, updates, weights
from coordinator.settings import CoordinatorSettings
from shared.problems import MEDIA_TYPE, Problem

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused: the problem's type says why", **_PROBLEM},
    "5XX": {"description": "Not possible now", **_PROBLEM},
}

_log = structlog.get_logger()


def create_app(settings: CoordinatorSettings, clock: Clock = utc_now) -> FastAPI:
    """The coordinator on a database whose schema is up to date (see migrate.py)."""
    context = Context(
        database=Database(settings.effective_database_url, settings.database_limits),
        settings=settings,
        clock=clock,
        metrics=CoordinatorMetrics(),
    )
    app = FastAPI(
        title="HyperFL coordinator",
        summary="Rounds and weights of federations that share only a hypernetwork.",
        version=version("hyperfl"),
        lifespan=_lifespan,
    )
    app.state.context = context
    app.state.readiness = Readiness(context.database, clock)
    for router in (
        federations.router,
        clients.router,
        tasks.router,
        updates.router,
        weights.router,
        rounds.router,
        access.router,
        health.router,
    ):
        app.include_router(router, responses=_PROBLEMS)
    problem_handlers.install(app)
    # Those added later are asked earlier: even what the limits refuse leaves its event.
    app.add_middleware(BodyLimit, json_body_seconds=settings.json_body_seconds)
    app.add_middleware(RequestLimits, settings=settings, clock=clock)
    app.add_middleware(AuditTrail, audit=AuditLog(context))
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    file = context.settings.effective_admin_token_file
    if await ensure_admin_token(context.database, file, context.clock()):
        _log.info("admin token written", file=str(file))
    running = asyncio.create_task(Driver(context).run(), name="driver")
    try:
        yield
    finally:
        context.tasks_bell.close()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await context.database.close()
