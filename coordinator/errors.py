"""What can go wrong at the coordinator, as a tree. HTTP is unknown here: see problem_handlers.py.

CoordinatorError
├── Unauthenticated          no valid token
├── Forbidden                a valid token for something else
├── UnknownThing             federation, client, round or weights version
├── NameTaken
├── IllegalTransition        the federation's state does not allow the action
├── RoundClosed              the round takes no more updates
├── StaleBaseVersion         the update starts from other weights than the round
├── LeaseLost                the work belongs to another attempt
├── UpdateConflict           a different update is recorded
├── FederationFinished
├── VersionRemoved           the weights were published, and are no longer kept
├── UnreadableSpecification  recorded, and not by this version's rules
├── BodyTooLarge
├── BodyTooSlow              nothing of the body came for too long
├── BodyLost                 what was stored of the body is gone; the same request is right again
├── UnsupportedMediaType
├── TooManyUploads           of one client for one round, at once
├── RangeNotSatisfiable
└── MalformedUpdate          the bytes do not fit the federation
"""

from __future__ import annotations

from typing import Any


class CoordinatorError(Exception):
    """A refusal with the reason for people, and members for programs."""

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class Unauthenticated(CoordinatorError):
    """No valid token was given."""


class Forbidden(CoordinatorError):
    """The token is valid for something else."""


class UnknownThing(CoordinatorError):
    """A federation, client, round or weights version that does not exist."""


class NameTaken(CoordinatorError):
    """The name belongs to something else."""


class IllegalTransition(CoordinatorError):
    """The state does not allow the action."""


class RoundClosed(CoordinatorError):
    """The round takes no more updates."""


class StaleBaseVersion(CoordinatorError):
    """The update starts from other weights than the round."""


class LeaseLost(CoordinatorError):
    """The work is not leased to this attempt."""


class UpdateConflict(CoordinatorError):
    """A different update is recorded for this client and round."""


class FederationFinished(CoordinatorError):
    """The federation has ended."""


class VersionRemoved(CoordinatorError):
    """The version's weights are no longer kept."""


class UnreadableSpecification(CoordinatorError):
    """A recorded specification is damaged, or of a version that knows more.

    Attributes:
        is_damaged: no version can read it.
    """

    def __init__(self, detail: str, *, is_damaged: bool = False, **members: Any) -> None:
        super().__init__(detail, **members)
        self.is_damaged = is_damaged


class BodyTooLarge(CoordinatorError):
    """The body exceeds its limit."""


class BodyTooSlow(CoordinatorError):
    """Nothing of the body came for too long."""


class BodyLost(CoordinatorError):
    """What was stored of the body was removed before it was complete."""


class UnsupportedMediaType(CoordinatorError):
    """The body is of another media type."""


class TooManyUploads(CoordinatorError):
    """As many updates of one client for one round are coming as may at once."""


class RangeNotSatisfiable(CoordinatorError):
    """The byte range lies outside the weights."""


class MalformedUpdate(CoordinatorError):
    """The bytes do not fit the federation."""
