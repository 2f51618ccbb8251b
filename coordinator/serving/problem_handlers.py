"""Exception to problem document: the only place where the coordinator's errors become HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, DBAPIError, ProgrammingError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from coordinator import errors
from coordinator.database.outages import Outage, outage_of
from shared.rest.problems import MEDIA_TYPE, Problem, ProblemType
from shared.terminal.redaction import cut, redact, redact_tokens
from shared.validation import fault_of

_RETRY_AFTER_SECONDS = 2
_ROOM_AFTER_SECONDS = 5
_CLIENT_CLOSED_REQUEST = 499
"""nginx's status; HTTP has none."""
HUNG_UP = "hung-up"
_LONGEST_DETAIL = 1000
_MOST_PARTS = 100
_TYPES: Mapping[type[errors.Refusal], ProblemType] = {
    errors.Unauthenticated: ProblemType.UNAUTHENTICATED,
    errors.Forbidden: ProblemType.FORBIDDEN,
    errors.UnknownThing: ProblemType.NOT_FOUND,
    errors.NameTaken: ProblemType.NAME_TAKEN,
    errors.IllegalTransition: ProblemType.ILLEGAL_TRANSITION,
    errors.RoundClosed: ProblemType.ROUND_CLOSED,
    errors.StaleBaseVersion: ProblemType.STALE_BASE_VERSION,
    errors.LeaseLost: ProblemType.LEASE_LOST,
    errors.UpdateConflict: ProblemType.UPDATE_CONFLICT,
    errors.InvalidSpecification: ProblemType.INVALID_REQUEST,
    errors.StateRestored: ProblemType.STATE_RESTORED,
    errors.FederationFinished: ProblemType.FEDERATION_FINISHED,
    errors.VersionRemoved: ProblemType.VERSION_REMOVED,
    errors.UnreadableSpecification: ProblemType.INTERNAL,
    errors.BodyTooLarge: ProblemType.BODY_TOO_LARGE,
    errors.BodyTooSlow: ProblemType.TOO_SLOW,
    errors.BodyLost: ProblemType.UNAVAILABLE,
    errors.UnsupportedMediaType: ProblemType.UNSUPPORTED_MEDIA_TYPE,
    errors.TooManyUploads: ProblemType.TOO_MANY_REQUESTS,
    errors.RangeNotSatisfiable: ProblemType.RANGE_NOT_SATISFIABLE,
    errors.DriverSilent: ProblemType.DRIVER_SILENT,
    errors.MalformedUpdate: ProblemType.MALFORMED_UPDATE,
}
_HTTP_TYPES: Mapping[int, ProblemType] = {
    404: ProblemType.NOT_FOUND,
    405: ProblemType.METHOD_NOT_ALLOWED,
}

_log = structlog.get_logger()


def install(app: FastAPI) -> None:
    """Makes every refusal and failure of ``app`` a problem document."""
    for kind, handler in _HANDLERS.items():
        app.exception_handler(kind)(handler)


async def answer(request: Request, error: Exception) -> Response:
    """What a request is answered that ended with ``error``: a problem document, or to nobody."""
    kind = next(kind for kind in type(error).__mro__ if kind in _HANDLERS)
    return await _HANDLERS[kind](request, error)


def problem_response(
    kind: ProblemType,
    detail: str,
    members: Mapping[str, Any] | None = None,
    retry_after_seconds: int = _RETRY_AFTER_SECONDS,
) -> JSONResponse:
    """A problem document as a response."""
    problem = Problem.of(
        kind,
        cut(redact_tokens(detail), _LONGEST_DETAIL),
        **{name: _shown(member) for name, member in (members or {}).items()},
    )
    headers = {}
    if kind is ProblemType.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if kind.status in (429, 503):
        headers["Retry-After"] = str(retry_after_seconds)
    return JSONResponse(
        problem.model_dump(), status_code=kind.status, headers=headers, media_type=MEDIA_TYPE
    )


def _shown(member: Any) -> Any:
    """A member as it is answered: what a peer sent does not come back at length."""
    if isinstance(member, str):
        return redact(member)
    if isinstance(member, list | tuple):
        return [_shown(part) for part in member[:_MOST_PARTS]]
    if isinstance(member, Mapping):
        return {
            redact(str(name)): _shown(part) for name, part in list(member.items())[:_MOST_PARTS]
        }
    if isinstance(member, int | float | None):
        return member if member is None or abs(member) < 2**63 else redact(str(member))
    return redact(str(member))


async def _on_refusal(request: Request, error: errors.Refusal) -> JSONResponse:
    request.state.problem = _TYPES[type(error)].slug
    response = problem_response(_TYPES[type(error)], error.detail, error.members)
    if isinstance(error, errors.BodyTooSlow):
        response.headers["Connection"] = "close"  # the rest of the body would be taken for a head
    return response


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> JSONResponse:
    faults = [fault_of(details) for details in error.errors()]
    detail = "; ".join(str(fault) for fault in faults[:3])
    members = {"errors": [fault._asdict() for fault in faults[:20]]}
    return problem_response(ProblemType.INVALID_REQUEST, detail, members)


async def _on_http_exception(_request: Request, error: HTTPException) -> JSONResponse:
    kind = _HTTP_TYPES.get(error.status_code, ProblemType.INVALID_REQUEST)
    response = problem_response(kind, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    outage = outage_of(error)
    if outage is Outage.STORAGE_FULL:
        return problem_response(
            ProblemType.STORAGE_FULL,
            "nothing was stored; try again when there is room",
            retry_after_seconds=_ROOM_AFTER_SECONDS,
        )
    if outage is Outage.UNANSWERED:
        return problem_response(ProblemType.UNAVAILABLE, "the database does not answer; try again")
    if not isinstance(error, DBAPIError) or isinstance(error, DataError | ProgrammingError):
        return await _on_failure(request, error)
    _log.error("database refused a statement", error=str(error).partition("\n")[0])
    return problem_response(ProblemType.UNAVAILABLE, "the database refused a statement; try again")


async def _on_hang_up(request: Request, _error: Exception) -> Response:
    """Nobody reads this answer; a client that goes away is no fault of this side."""
    request.state.problem = HUNG_UP
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _on_failure(request: Request, error: Exception) -> JSONResponse:
    _log.error(
        "request failed", method=request.method, path=redact(request.url.path), exc_info=error
    )
    return problem_response(ProblemType.INTERNAL, "see the coordinator's log")


_HANDLERS: Mapping[type[Any], Callable[[Request, Any], Awaitable[Response]]] = {
    errors.Refusal: _on_refusal,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_hang_up,
    SQLAlchemyError: _on_database_error,
    Exception: _on_failure,
}
