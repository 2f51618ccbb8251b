"""/v1/federations/{name}/rounds/{n}/updates/{client}: what clients learned."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response, status

from coordinator.operations import updates
from coordinator.operations.updates import IncomingUpdate
from coordinator.routes.dependencies import (
    ClientDependency,
    ContextDependency,
    NameInPath,
    ToldGeneration,
    UploadSlotsDependency,
)
from shared.rest.schema import Receipt
from shared.tensors.codec import MEDIA_TYPE
from shared.validation import MAX_COUNT

router = APIRouter(prefix="/v1/federations/{federation_name}", tags=["work"])


@router.put(
    "/rounds/{round_number}/updates/{client_name}",
    status_code=status.HTTP_201_CREATED,
    responses={200: {"model": Receipt, "description": "The same bytes were recorded before"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_update(
    round_number: Annotated[int, Path(ge=1, le=MAX_COUNT)],
    client_name: NameInPath,
    attempt: Annotated[int, Query(ge=1, le=MAX_COUNT)],
    request: Request,
    response: Response,
    context: ContextDependency,
    slots: UploadSlotsDependency,
    client: ClientDependency,
    told: ToldGeneration,
    content_type: Annotated[str, Header()] = "",
    content_length: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
) -> Receipt:
    """Record a client's update; sending the same bytes again is safe."""
    client.require_client(client_name)
    receipt, is_new = await updates.receive(
        context,
        slots,
        client,
        IncomingUpdate(
            round_number=round_number,
            attempt=attempt,
            media_type=content_type.partition(";")[0].strip().lower(),
            content_length=content_length,
            body=request.stream(),
            state=told,
        ),
    )
    if not is_new:
        response.status_code = status.HTTP_200_OK
    return receipt
