"""/v1/federations: what defines a federation and what state it is in."""

from __future__ import annotations

from fastapi import APIRouter, Request, status

from coordinator.operations import federations
from coordinator.routes.dependencies import (
    AdminDependency,
    ContextDependency,
    NameInPath,
    ViewerDependency,
)
from coordinator.routes.json_route import JsonRoute
from shared.federation.specification import FederationSpecification
from shared.rest.schema import FederationPatch, FederationSummary, FederationView

router = APIRouter(prefix="/v1/federations", tags=["federations"], route_class=JsonRoute)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_federation(
    specification: FederationSpecification,
    request: Request,
    context: ContextDependency,
    _admin: AdminDependency,
) -> FederationView:
    """Create a federation in state ``draft``."""
    request.state.subject = f"federation_name={specification.name}"
    return await federations.create(context, specification)


@router.get("")
async def list_federations(
    context: ContextDependency, _admin: AdminDependency
) -> list[FederationSummary]:
    """List all federations."""
    return await federations.list_all(context)


@router.get("/{federation_name}")
async def show_federation(
    federation_name: NameInPath, context: ContextDependency, _viewer: ViewerDependency
) -> FederationView:
    """Show a federation with its specification."""
    return await federations.show(context, federation_name)


@router.patch("/{federation_name}")
async def change_federation(
    federation_name: NameInPath,
    patch: FederationPatch,
    request: Request,
    context: ContextDependency,
    _admin: AdminDependency,
) -> FederationView:
    """Start, pause, resume or finish a federation."""
    request.state.subject = f"federation_name={federation_name} action={patch.action}"
    return await federations.act(context, federation_name, patch.action)
