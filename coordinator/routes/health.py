"""/healthz, /readyz, /metrics: for load balancers and monitoring, without a token."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text

from coordinator.routes.dependencies import ContextDependency
from shared.schema import PROTOCOL_VERSION, Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return _health()


@router.get("/readyz")
async def readyz(context: ContextDependency) -> Health:
    """The database answers too; 503 otherwise."""
    async with context.database.reading() as session:
        await session.execute(text("SELECT 1"))
    return _health()


@router.get("/metrics", response_class=Response)
async def metrics(context: ContextDependency) -> Response:
    """Counters in Prometheus' text format."""
    return Response(context.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _health() -> Health:
    return Health(status="ok", protocol=PROTOCOL_VERSION, version=version("hyperfl"))
