"""Why a client takes no part in a round: one of few kinds, and a line of text."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from shared.validation import require_printable

MAX_REASON = 200
DeclineReason = Annotated[
    str, Field(min_length=1, max_length=MAX_REASON), AfterValidator(require_printable)
]
"""Why a client takes no part in a round: one line for people."""


class DeclineKind(StrEnum):
    """What kept a client from a round. The interface and reports name these alone."""

    DATA = "data"
    POLICY = "policy"
    SECURE_SUM = "secure_sum"
    PRIVACY = "privacy"
    DIVERGENCE = "divergence"
    DISK = "disk"
    MEMORY = "memory"
    UPDATE_REFUSED = "update_refused"
    NO_PLACE = "no_place"
    OTHER = "other"
    """Also what a worker of before means, which names no kind."""


DECLINE_WORDS = {
    DeclineKind.DATA: "its data cannot be read",
    DeclineKind.POLICY: "the site's policy excludes the round",
    DeclineKind.SECURE_SUM: "the secure sum would show too much",
    DeclineKind.PRIVACY: "its privacy budget or noise does not allow the round",
    DeclineKind.DIVERGENCE: "its training diverged",
    DeclineKind.DISK: "its disk is full, or cannot be read or written",
    DeclineKind.MEMORY: "its memory is too small",
    DeclineKind.UPDATE_REFUSED: "the coordinator refuses its update",
    DeclineKind.NO_PLACE: "the federation has no place for it",
    DeclineKind.OTHER: "training failed, no update is sent",
}
"""What a kind means, for people: nothing of it is a site's own."""


def as_text(kind: DeclineKind, reason: str) -> str:
    """Both as one line, as it is stored and shown: ``disk: …``."""
    return f"{kind}: {reason}"


def from_text(text: str) -> tuple[DeclineKind, str]:
    """What :func:`as_text` was given; a text of before kinds is one of ``other``."""
    kind, colon, reason = text.partition(": ")
    if colon and reason and kind in set(DeclineKind):
        return DeclineKind(kind), reason
    return DeclineKind.OTHER, text
