"""The problem types of the interface (RFC 9457): one for each situation, acted on by type.

A worker decides only by ``Problem.type``; ``title`` and ``detail`` are for people.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict

MEDIA_TYPE = "application/problem+json"
_PREFIX = "urn:hyperfl:problem:"


class ProblemType(Enum):
    """A stable name with its HTTP status and a title for people."""

    BAD_REQUEST = ("bad-request", 400, "The request is not HTTP/1.1")
    UNAUTHENTICATED = ("unauthenticated", 401, "No valid token was given")
    FORBIDDEN = ("forbidden", 403, "The token does not allow this")
    NOT_FOUND = ("not-found", 404, "Not found")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "This address does not support the method")
    TOO_SLOW = ("too-slow", 408, "The request did not arrive in time")
    NAME_TAKEN = ("name-taken", 409, "The name is already in use")
    ILLEGAL_TRANSITION = ("illegal-transition", 409, "The state does not allow this action")
    ROUND_CLOSED = ("round-closed", 409, "The round takes no more updates")
    STALE_BASE_VERSION = ("stale-base-version", 409, "The update starts from other weights")
    LEASE_LOST = ("lease-lost", 409, "The work is no longer leased to this attempt")
    STATE_RESTORED = ("state-restored", 409, "The client's private state is not its newest")
    UPDATE_CONFLICT = ("update-conflict", 409, "A different update is already recorded")
    FEDERATION_FINISHED = ("federation-finished", 410, "The federation has ended")
    VERSION_REMOVED = ("version-removed", 410, "These weights are no longer kept")
    BODY_TOO_LARGE = ("body-too-large", 413, "The body is over the limit")
    TARGET_TOO_LONG = ("target-too-long", 414, "The request's target is over the limit")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported-media-type", 415, "The body has the wrong media type")
    RANGE_NOT_SATISFIABLE = ("range-not-satisfiable", 416, "The range lies outside the weights")
    MALFORMED_UPDATE = ("malformed-update", 422, "The update does not fit the federation")
    INVALID_REQUEST = ("invalid-request", 422, "The request is not valid")
    TOO_MANY_REQUESTS = ("too-many-requests", 429, "Too many requests")
    HEADERS_TOO_LARGE = ("headers-too-large", 431, "The request's headers are over the limit")
    INTERNAL = ("internal", 500, "The coordinator failed")
    DRIVER_SILENT = ("driver-silent", 503, "The coordinator does not move rounds")
    STORAGE_FULL = ("storage-full", 503, "The coordinator has no room to store this now")
    UNAVAILABLE = ("unavailable", 503, "The coordinator cannot serve this now")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.urn = _PREFIX + slug
        self.status = status
        self.title = title


class Problem(BaseModel):
    """A problem document as sent. Members beyond the standard ones say what was wrong and where."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, kind: ProblemType, detail: str, **members: Any) -> Problem:
        """The document for one situation; ``members`` are sent beside the standard ones."""
        return cls(type=kind.urn, title=kind.title, status=kind.status, detail=detail, **members)
