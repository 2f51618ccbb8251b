"""/healthz, /readyz: for load balancers, without a token."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from coordinator.database.readiness import Readiness
from coordinator.routes.dependencies import ContextDependency
from shared.rest.schema import PROTOCOL_VERSION, Health

router = APIRouter(tags=["health"])


async def get_readiness(request: Request) -> Readiness:
    """What app.py built, one for all requests."""
    readiness: Readiness = request.app.state.readiness
    return readiness


ReadinessDependency = Annotated[Readiness, Depends(get_readiness)]


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return _health()


@router.get("/readyz")
async def readyz(context: ContextDependency, readiness: ReadinessDependency) -> Health:
    """The database answers too, and rounds are moved; 503 otherwise."""
    await readiness.check()
    context.driver_pulse.check()
    return _health()


def _health() -> Health:
    return Health(status="ok", protocol=PROTOCOL_VERSION, version=version("hyperfl"))
