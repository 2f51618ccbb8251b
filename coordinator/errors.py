"""What can go wrong at the coordinator, as a tree. HTTP is unknown here: see problem_handlers.py.

What is InvalidInput too ends a command with 2, not 1.

CoordinatorError
├── Refusal                      a request is answered with a problem document
│   ├── Unauthenticated          no valid token
│   ├── Forbidden                a valid token for something else
│   ├── UnknownThing             federation, client, round or weights version
│   ├── NameTaken
│   ├── InvalidSpecification     its noise breaks its budget, or its sum does not fit
│   ├── IllegalTransition        the federation's state does not allow the action
│   ├── RoundClosed              the round takes no more updates
│   ├── StaleBaseVersion         the update starts from other weights than the round
│   ├── LeaseLost                the work belongs to another attempt
│   ├── UpdateConflict           a different update is recorded
│   ├── StateRestored            a client's private state is older than what it has sent
│   ├── FederationFinished
│   ├── VersionRemoved           the weights were published, and are no longer kept
│   ├── UnreadableSpecification  recorded, and not by this version's rules
│   ├── BodyTooLarge
│   ├── BodyTooSlow              nothing of the body came for too long
│   ├── BodyLost                 what was stored of the body is gone; the request may be repeated
│   ├── UnsupportedMediaType
│   ├── TooManyUploads           of one client for one round, at once
│   ├── RangeNotSatisfiable
│   ├── MalformedUpdate          the bytes do not fit the federation
│   └── DriverSilent             rounds are not moved here
├── DamagedBlobError             stored bytes are not those that were sealed
├── AggregationFailed            the round fails with this reason
├── AggregationLeaseLost         another coordinator aggregates the round, or it was closed
├── TaskEnded                    a task that the process cannot do without has ended
├── CoordinatorSilent            a command of an administrator's was not answered
├── NotExported                  InvalidInput: an export's format or place cannot be used
├── ExportFailed                 an export could not be written
├── BackupError                  InvalidInput: a copy that cannot be made, or must not be put back
└── NewerSchemaError             the database was migrated by newer code
"""

from __future__ import annotations

from typing import Any

from shared.validation import InvalidInput


class CoordinatorError(Exception):
    """What the coordinator's own code raises."""


class Refusal(CoordinatorError):
    """A request is refused: the reason for people, and members for programs."""

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class Unauthenticated(Refusal):
    """No valid token was given."""


class Forbidden(Refusal):
    """The token is valid for something else."""


class UnknownThing(Refusal):
    """A federation, client, round or weights version that does not exist."""


class InvalidSpecification(Refusal):
    """A specification that no federation can have, found by computing."""


class NameTaken(Refusal):
    """The name belongs to something else."""


class IllegalTransition(Refusal):
    """The state does not allow the action."""


class RoundClosed(Refusal):
    """The round takes no more updates."""


class StaleBaseVersion(Refusal):
    """The update starts from other weights than the round."""


class LeaseLost(Refusal):
    """The work is not leased to this attempt."""


class UpdateConflict(Refusal):
    """A different update is recorded for this client and round."""


class StateRestored(Refusal):
    """The client's private state is older than what it has sent, or a copy of it was used."""


class FederationFinished(Refusal):
    """The federation has ended."""


class VersionRemoved(Refusal):
    """The version's weights are no longer kept."""


class UnreadableSpecification(Refusal):
    """A recorded specification is damaged, or of a version that knows more.

    Attributes:
        is_damaged: no version can read it.
    """

    def __init__(self, detail: str, *, is_damaged: bool = False, **members: Any) -> None:
        super().__init__(detail, **members)
        self.is_damaged = is_damaged


class BodyTooLarge(Refusal):
    """The body exceeds its limit."""


class BodyTooSlow(Refusal):
    """Nothing of the body came for too long."""


class BodyLost(Refusal):
    """What was stored of the body was removed before it was complete."""


class UnsupportedMediaType(Refusal):
    """The body is of another media type."""


class TooManyUploads(Refusal):
    """As many updates of one client for one round are coming as may at once."""


class RangeNotSatisfiable(Refusal):
    """The byte range lies outside the weights."""


class MalformedUpdate(Refusal):
    """The bytes do not fit the federation."""


class DriverSilent(Refusal):
    """This process answers, but its driver does not move rounds."""


class DamagedBlobError(CoordinatorError):
    """Stored bytes are not those that were sealed."""


class AggregationFailed(CoordinatorError):
    """The updates cannot be aggregated; the round fails with this reason."""


class AggregationLeaseLost(CoordinatorError):
    """Another coordinator took the round over, or it was closed."""


class TaskEnded(CoordinatorError):
    """A task that the process cannot do without has ended."""


class CoordinatorSilent(CoordinatorError):
    """No answer, or one that asks to come again: one line that names the address."""


class NotExported(CoordinatorError, InvalidInput):
    """A format, a package or a place that an export cannot use: one line why."""


class ExportFailed(CoordinatorError):
    """An export could not be written: one line why."""


class BackupError(CoordinatorError, InvalidInput):
    """A copy that cannot be made, or must not be put back."""


class NewerSchemaError(CoordinatorError):
    """The database was migrated by newer code than this."""
