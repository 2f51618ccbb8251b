"""Refusals after which an update is never recorded."""

from __future__ import annotations

from shared.rest.problems import ProblemType

NOT_WANTED = (
    ProblemType.ROUND_CLOSED,
    ProblemType.STALE_BASE_VERSION,
    ProblemType.UPDATE_CONFLICT,
    ProblemType.FEDERATION_FINISHED,
    ProblemType.NOT_FOUND,
)
"""The round goes on without the update, is over, or is not known: nothing will record it."""
NOT_ACCEPTED = (ProblemType.MALFORMED_UPDATE, ProblemType.BODY_TOO_LARGE)
"""What the same update would be answered again."""
