"""/v1/federations/{name}/task and heartbeats: work for clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from coordinator.context import Wait
from coordinator.operations import tasks
from coordinator.routes.dependencies import ClientDependency, ContextDependency, ToldGeneration
from coordinator.routes.json_route import JsonRoute
from shared.rest.schema import (
    DeclineReply,
    DeclineRequest,
    HeartbeatReply,
    HeartbeatRequest,
    Task,
)
from shared.rest.worker_about import AboutText, WorkerAbout
from shared.validation import MAX_COUNT

router = APIRouter(prefix="/v1/federations/{federation_name}", tags=["work"], route_class=JsonRoute)

_POLL_AGAIN_SECONDS = 1


async def get_about(
    worker_version: Annotated[AboutText | None, Query()] = None,
    torch_version: Annotated[AboutText | None, Query()] = None,
    device: Annotated[AboutText | None, Query()] = None,
) -> WorkerAbout:
    """What the worker says of itself."""
    return WorkerAbout(worker_version=worker_version, torch_version=torch_version, device=device)


@router.get(
    "/task", response_model=Task, responses={204: {"description": "No work; see Retry-After"}}
)
async def next_task(
    request: Request,
    context: ContextDependency,
    client: ClientDependency,
    about: Annotated[WorkerAbout, Depends(get_about)],
    told: ToldGeneration,
    wait: Annotated[float, Query(ge=0, le=tasks.MAX_WAIT_SECONDS)] = 0,
) -> Response:
    """Wait up to ``wait`` seconds for work."""
    waited: Wait | None = getattr(request.state, "waited", None)
    if waited is None:
        work = await tasks.next_work(context, client, wait, about, told)
    else:
        work = await tasks.look_again(context, client, waited)
    if isinstance(work, Wait):
        request.state.wait = work
        return _NoAnswerYet()
    pieces = None if work is None else await tasks.with_view(context, client, work)
    return no_work() if pieces is None else _answer(pieces)


def no_work() -> Response:
    """The answer to a poll for which there is no work."""
    return Response(
        status_code=status.HTTP_204_NO_CONTENT, headers={"Retry-After": str(_POLL_AGAIN_SECONDS)}
    )


class _NoAnswerYet(Response):
    """Of a poll that waits: see ``coordinator/serving/turns.py``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends nothing."""


def _answer(pieces: list[bytes]) -> Response:
    """JSON that is sent piece by piece, and never put together."""

    async def each() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    length = {"Content-Length": str(sum(map(len, pieces)))}
    return StreamingResponse(each(), headers=length, media_type="application/json")


@router.post("/rounds/{round_number}/heartbeat")
async def heartbeat(
    round_number: Annotated[int, Path(ge=1, le=MAX_COUNT)],
    request: HeartbeatRequest,
    context: ContextDependency,
    client: ClientDependency,
) -> HeartbeatReply:
    """Prolong the lease of the client's work."""
    return await tasks.extend_lease(context, client, round_number, request.attempt)


@router.put("/rounds/{round_number}/decline")
async def decline(
    round_number: Annotated[int, Path(ge=1, le=MAX_COUNT)],
    attempt: Annotated[int, Query(ge=1, le=MAX_COUNT)],
    body: DeclineRequest,
    request: Request,
    context: ContextDependency,
    client: ClientDependency,
) -> DeclineReply:
    """Take no part in the round, and say why; sending the same again is safe."""
    request.state.subject = (
        f"federation_name={client.federation.name} round_number={round_number} reason={body.kind}"
    )
    return await tasks.decline(context, client, round_number, attempt, body)
