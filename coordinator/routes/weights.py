"""/v1/federations/{name}/weights/{version}: immutable files of shared tensors."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Header, Path, Query, Response, status
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send

from coordinator.database.outages import outage_of
from coordinator.operations import weights
from coordinator.routes.dependencies import (
    ContextDependency,
    DeltaChainsDependency,
    MemberDependency,
    NameInPath,
)
from shared.tensors.codec import MEDIA_TYPE
from shared.validation import MAX_COUNT

_log = structlog.get_logger()


class WeightsResponse(StreamingResponse):
    """Ends early, and with it the connection, when the database goes away while it is sent.

    The client has the length and asks for the rest.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        try:
            await super().__call__(scope, receive, send)
        except SQLAlchemyError as error:
            if outage_of(error) is None:
                raise
            _log.warning("weights broken off", path=scope["path"])


router = APIRouter(prefix="/v1/federations/{federation_name}", tags=["work"])


@router.get(
    "/weights/{version}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The one range of bytes that was asked for"},
        304: {"description": "If-None-Match names these weights"},
    },
)
async def get_weights(
    federation_name: NameInPath,
    version: Annotated[int, Path(ge=0, le=MAX_COUNT)],
    context: ContextDependency,
    chains: DeltaChainsDependency,
    member: MemberDependency,
    since: Annotated[int | None, Query(ge=0, le=MAX_COUNT)] = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Send a version's weights as safetensors.

    With ``since``, the deltas from that version on are sent instead where that is less; the file's
    metadata says which it is.
    """
    outgoing = await weights.open_weights(
        context, chains, member, federation_name, version, since=since, byte_range=range_
    )
    if outgoing.is_chain:
        headers = {"Content-Length": str(outgoing.size_bytes)}
        return WeightsResponse(outgoing.body, headers=headers, media_type=MEDIA_TYPE)
    etag = f'"{outgoing.digest}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "private, max-age=31536000, immutable",
        "Accept-Ranges": "bytes",
    }
    if if_none_match == etag:
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    headers["Content-Length"] = str(outgoing.end - outgoing.start)
    if outgoing.is_partial:
        last = outgoing.end - 1
        headers["Content-Range"] = f"bytes {outgoing.start}-{last}/{outgoing.size_bytes}"
    return WeightsResponse(
        outgoing.body,
        status_code=206 if outgoing.is_partial else 200,
        headers=headers,
        media_type=MEDIA_TYPE,
    )
