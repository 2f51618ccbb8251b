"""/page/federations/{name}/weights: versions of the shared tensors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from coordinator.operations import federations, weights
from coordinator.page.page_route import PageRoute
from coordinator.page.rendering import render
from coordinator.page.visitor import AdministratorDependency, VisitorDependency
from coordinator.routes.dependencies import (
    ContextDependency,
    DeltaChainsDependency,
    NameInPath,
)
from coordinator.routes.weights import WeightsResponse
from coordinator.serving.page_requests import FOLDER
from shared.tensors.codec import MEDIA_TYPE
from shared.validation import MAX_COUNT

_ROWS = 50

router = APIRouter(
    prefix=f"{FOLDER}/federations/{{federation_name}}/weights",
    route_class=PageRoute,
    include_in_schema=False,
)


@router.get("")
async def list_weights(
    federation_name: NameInPath,
    request: Request,
    context: ContextDependency,
    _visitor: VisitorDependency,
    before: Annotated[int, Query(ge=1, le=MAX_COUNT)] = MAX_COUNT,
) -> Response:
    """List the versions of a federation's weights, newest first."""
    found = await weights.list_versions(context, federation_name, _ROWS + 1, before)
    return render(
        request,
        "weights.html",
        federation=await federations.show(context, federation_name),
        versions=found[:_ROWS],
        is_newest=before == MAX_COUNT,
        older=found[_ROWS - 1].version if len(found) > _ROWS else None,
    )


@router.get("/{version}")
async def download_weights(
    federation_name: NameInPath,
    version: Annotated[int, Path(ge=0, le=MAX_COUNT)],
    context: ContextDependency,
    chains: DeltaChainsDependency,
    administrator: AdministratorDependency,
) -> Response:
    """Send a version's file."""
    outgoing = await weights.open_weights(
        context, chains, administrator.admin, federation_name, version
    )
    name = f"{federation_name}-{version}.safetensors"
    headers = {
        "Content-Length": str(outgoing.size_bytes),
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return WeightsResponse(outgoing.body, headers=headers, media_type=MEDIA_TYPE)
