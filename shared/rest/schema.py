"""Requests and responses of the REST interface, version 1. Times are UTC; sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.federation.specification import (
    CLIENT_NAME,
    FEDERATION_NAME,
    FederationSpecification,
    UpdateEncodingName,
    document_digest,
)
from shared.rest.declines import DeclineKind, DeclineReason
from shared.rest.worker_about import WorkerAbout
from shared.secure_sum.messages import ExchangeView
from shared.validation import MAX_COUNT, MAX_EXAMPLES

PROTOCOL_VERSION: Literal[1] = 1
MAX_METRICS = 64
MAX_NAMED = 10
"""Clients that a summary or a log line names."""

DIGEST = r"^sha256:[0-9a-f]{64}$"

Digest = Annotated[str, Field(pattern=DIGEST)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
LeaseSeconds = Annotated[float, Field(gt=0.0, le=86400.0, allow_inf_nan=False)]
Credential = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
"""What fits into a header."""

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Metrics = Annotated[
    dict[MetricName, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=MAX_METRICS)
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Reply(BaseModel):
    """Replies may gain members within a protocol version; readers ignore those they do not know."""

    model_config = ConfigDict(frozen=True)


class FederationState(StrEnum):
    """Where a federation stands."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"


class FederationAction(StrEnum):
    """What an administrator may ask of a federation."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"


class RoundPhase(StrEnum):
    """Where a round stands. The three others than these four are of a secure sum."""

    JOINING = "joining"
    OPEN = "open"
    CONFIRMING = "confirming"
    UNMASKING = "unmasking"
    AGGREGATING = "aggregating"
    COMMITTED = "committed"
    FAILED = "failed"


class TaskKind(StrEnum):
    """What a client is asked to do. A round is to train or to evaluate; the rest is of its sum."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    JOIN = "join"
    CONFIRM = "confirm"
    UNMASK = "unmask"


class AssignmentState(StrEnum):
    """Where one client's work in one round stands."""

    OFFERED = "offered"
    LEASED = "leased"
    SUBMITTED = "submitted"
    EXPIRED = "expired"
    DROPPED = "dropped"
    """The round goes on without this client: it declined, or was silent until an earlier phase of
    its secure sum ended."""


class ClientState(StrEnum):
    """Whether a client may take part."""

    INVITED = "invited"
    ENROLLED = "enrolled"
    REVOKED = "revoked"


class FederationPatch(_Model):
    """Body of ``PATCH /v1/federations/{name}``."""

    action: FederationAction


class FederationSummary(_Reply):
    """A federation in a list.

    Method, model and planned rounds are null if the coordinator cannot read the specification.
    """

    name: str
    state: FederationState
    reason: str | None = Field(description="why it is paused, failed or waiting")
    method: str | None
    model: str | None
    rounds_committed: int
    rounds_planned: int | None
    round_number: int | None = Field(description="the round that is open now, if any")
    clients_enrolled: int
    weights_version: Count
    weights_digest: Digest
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class FederationView(FederationSummary):
    """A federation with its specification, as it was recorded when it was created."""

    specification: dict[str, Any] = Field(
        description="as it was posted, with the defaults of then; see POST /v1/federations"
    )
    specification_digest: Digest

    def checked_specification(self) -> FederationSpecification:
        """The specification, read by this version's rules.

        Raises:
            ValueError: the document has another digest, or says what this version does not know.
        """
        digest = document_digest(self.specification)
        if digest != self.specification_digest:
            raise ValueError(
                f"the specification has digest {digest}, not {self.specification_digest}"
            )
        return FederationSpecification.of_record(self.specification)


class ClientInvitation(_Model):
    """Body of ``POST /v1/federations/{name}/clients``."""

    name: str = Field(pattern=CLIENT_NAME)


class InvitationReply(_Reply):
    """The one time the enrolment token is shown."""

    federation: str
    name: str
    enrolment_token: str
    expires_at: datetime


class ClientView(WorkerAbout):
    """A client as administrators see it, with what its worker said of itself with its last poll."""

    name: str
    state: ClientState
    invited_at: datetime
    enrolled_at: datetime | None
    last_seen_at: datetime | None
    updates_recorded: int


class EnrolmentRequest(_Model):
    """Body of ``POST /v1/enrolments``."""

    enrolment_token: str = Field(max_length=200)
    federation: str | None = Field(default=None, pattern=FEDERATION_NAME)
    """That the client means; a token of another is refused, and stays good."""
    client: str | None = Field(default=None, pattern=CLIENT_NAME)
    """That asks; as ``federation``."""


class EnrolmentReply(_Reply):
    """The one time the client's credential is shown."""

    federation: str
    client: str
    credential: Credential


class TokenScope(StrEnum):
    """What the bearer of an administrator's token may do."""

    ADMIN = "admin"
    READ_ONLY = "read-only"


class TokenRequest(_Model):
    """Body of ``POST /v1/tokens``."""

    name: str = Field(pattern=CLIENT_NAME)
    scope: TokenScope
    valid_seconds: float | None = Field(default=None, strict=True, gt=0.0, le=3660 * 86400.0)


class TokenView(_Reply):
    """A token as administrators see it."""

    name: str
    scope: TokenScope
    created_at: datetime
    expires_at: datetime | None


class TokenReply(TokenView):
    """The one time the token is shown."""

    token: str


class AuditEvent(_Reply):
    """Who did what, when, from where, and how it ended."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    outcome: str = Field(description="HTTP status, and a refusal's problem type")
    left_out: int = Field(description="events before this one that were too many to be written")


class Task(_Reply):
    """Work leased to a client: from weights ``base_version``, due before the lease ends."""

    kind: TaskKind
    federation: str
    client: str
    round_number: PositiveCount
    attempt: PositiveCount
    base_version: Count
    base_digest: Digest
    lease_seconds: LeaseSeconds
    client_number: Count | None = Field(default=None, description="in its federation, from 0")
    exchange: ExchangeView | None = Field(
        default=None, description="in a round with a secure sum: what its phase shows this client"
    )


class HeartbeatRequest(_Model):
    """Body of ``POST /v1/federations/{name}/rounds/{n}/heartbeat``."""

    attempt: int = Field(ge=1, le=MAX_COUNT)


class HeartbeatReply(_Reply):
    """The lease now lasts ``lease_seconds`` from this answer on."""

    round_number: PositiveCount
    attempt: PositiveCount
    lease_seconds: LeaseSeconds


class DeclineRequest(_Model):
    """Body of ``PUT /v1/federations/{name}/rounds/{n}/decline``."""

    reason: DeclineReason
    kind: DeclineKind = DeclineKind.OTHER
    joined_round: PositiveCount | None = Field(
        default=None, description="the secure sum that the client has joined, if that is why"
    )


class DeclineReply(_Reply):
    """The round goes on without the client; the same for every repetition."""

    round_number: PositiveCount
    reason: DeclineReason


UPDATE_METADATA_KEY = "hyperfl"


class RecordedMetadata(_Reply):
    """What is read again of a recorded update's metadata, whichever release had checked it."""

    encoding: UpdateEncodingName


class UpdateMetadata(_Model):
    """What an update says of itself: JSON in its safetensors metadata entry."""

    protocol: Literal[1] = PROTOCOL_VERSION
    federation: str
    client: str
    round_number: int = Field(le=MAX_COUNT)
    base_version: int = Field(le=MAX_COUNT)
    base_digest: Digest
    encoding: UpdateEncodingName
    num_examples: int = Field(le=MAX_EXAMPLES)
    metrics: Metrics


class DeltaChain(_Model):
    """What a file of deltas leads from and to: JSON in its safetensors metadata entry."""

    since: int = Field(ge=0, le=MAX_COUNT)
    version: int = Field(ge=1, le=MAX_COUNT)


class Receipt(_Reply):
    """Proof that an update is recorded; the same for the same bytes."""

    federation: str
    client: str
    round_number: int
    digest: str
    size_bytes: int
    received_at: datetime


class ExchangeReceipt(_Reply):
    """Proof that a message of a secure sum is recorded; the same for the same message."""

    round_number: PositiveCount
    kind: TaskKind
    digest: Digest


class RoundSummary(_Reply):
    """A round in a list. ``metrics`` are unweighted means over the clients that reported."""

    number: int
    kind: TaskKind
    phase: RoundPhase
    reason: str | None
    base_version: int
    new_version: int | None
    new_digest: str | None
    cohort_size: int
    updates_received: int
    not_heard_from: list[str] = Field(
        default=[],
        description=f"clients of the cohort without an update: the first {MAX_NAMED} by name",
    )
    opened_at: datetime
    deadline_at: datetime
    closed_at: datetime | None
    bytes_up: int
    bytes_down: int
    metrics: dict[str, float]


class AssignmentView(_Reply):
    """One client's part in a round. Bytes are HTTP bodies: updates received, weights sent."""

    client: str
    state: AssignmentState
    attempt: int
    num_examples: int | None
    metrics: dict[str, float]
    bytes_up: int
    bytes_down: int
    submitted_at: datetime | None
    reason: str | None = Field(default=None, description="why the client declined")
    reason_kind: DeclineKind | None = Field(
        default=None, description="what kept the client from the round, if it declined"
    )


class RoundView(RoundSummary):
    """A round with every client's part in it."""

    assignments: list[AssignmentView]


class Health(_Reply):
    """Reply of ``/healthz`` and ``/readyz``."""

    status: Literal["ok"]
    protocol: int
    version: str
