"""The rows of the coordinator's database. Every time is UTC; every size is in bytes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, column_property, mapped_column

from coordinator.store.base import Base


class BlobRow(Base):
    """Bytes kept in chunks. Without a digest they are still being written and belong to nobody."""

    __tablename__ = "blobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str | None] = mapped_column(index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class BlobChunkRow(Base):
    """One chunk; all but the last of a blob are of equal length."""

    __tablename__ = "blob_chunks"

    blob_id: Mapped[int] = mapped_column(
        ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class FederationRow(Base):
    """One training job."""

    __tablename__ = "federations"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    specification: Mapped[str] = mapped_column(Text)
    """The JSON as it was when the federation was created, whatever later versions add."""
    specification_digest: Mapped[str]
    """Of that JSON; workers bind private state to it."""
    state: Mapped[str]
    reason: Mapped[str | None] = mapped_column(Text)
    weights_version: Mapped[int]
    failed_rounds: Mapped[int]
    """Failed rounds since the last committed one."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class ClientRow(Base):
    """An identity that takes part in one federation."""

    __tablename__ = "clients"
    __table_args__ = (
        UniqueConstraint("federation_id", "name"),
        Index("ix_clients_number", "federation_id", "number", unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    federation_id: Mapped[int] = mapped_column(ForeignKey("federations.id"))
    name: Mapped[str]
    number: Mapped[int] = mapped_column(server_default=text("0"))
    """In its federation, from 0 in the order of first invitations; it never changes."""
    state: Mapped[str]
    invited_at: Mapped[datetime]
    enrolled_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    card: Mapped[str | None] = mapped_column(Text)
    """Its public keys for secure sums, as canonical JSON."""
    joins: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    """Joins to secure sums that its private state had counted at the last, under this card."""
    state_generation: Mapped[int | None]
    """Of the newest private state that it told of, with its mark; None where it told of none since
    it enrolled."""
    state_mark: Mapped[str | None]
    updates_recorded: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    """Counted as they come: to count over all rounds takes long where there are many."""
    num_examples: Mapped[int | None] = mapped_column(BigInteger)
    """Of its newest update; None where that is of a secure sum."""
    last_reason: Mapped[str | None] = mapped_column(Text)
    """Why it declined the last round that it did, as an assignment has it."""
    worker_version: Mapped[str | None]
    """What its worker said of itself with its last poll, as the two after this."""
    torch_version: Mapped[str | None]
    device: Mapped[str | None]


class TokenRow(Base):
    """The SHA-256 of a token; the token itself is never kept."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    name: Mapped[str | None] = mapped_column(unique=True)
    """What administrators call it; tokens of clients have none."""
    client_id: Mapped[int | None] = mapped_column(ForeignKey("clients.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    first_used_at: Mapped[datetime | None]
    """A client's credential ends the ones before it when it is first used."""


class SessionRow(Base):
    """One sign-in to the page: the SHA-256 of its cookie's secret. It ends with its token."""

    __tablename__ = "sessions"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    address: Mapped[str]
    """Of whoever signed in."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class WeightsRow(Base):
    """One published version of a federation's shared tensors."""

    __tablename__ = "weights"
    __table_args__ = (UniqueConstraint("federation_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    federation_id: Mapped[int] = mapped_column(ForeignKey("federations.id"))
    version: Mapped[int]
    digest: Mapped[str]
    blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id"))
    """None once the version is no longer kept; its digest stays."""
    delta_blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id"))
    """The published delta that leads here from the version before, if there is one."""
    residual_blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id"))
    """What that delta left out, for the next; kept for the newest version only."""
    created_at: Mapped[datetime]


_LIVE = "phase IN ('joining', 'open', 'confirming', 'unmasking', 'aggregating')"
_UNREPORTED = "closed_at IS NOT NULL AND report IS NULL"


class RoundRow(Base):
    """One round: from weights ``base_version``, with the cohort in its assignments."""

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("federation_id", "number"),
        Index(
            "uq_rounds_live",
            "federation_id",
            unique=True,
            sqlite_where=text(_LIVE),
            postgresql_where=text(_LIVE),
        ),
        Index(
            "ix_rounds_unreported",
            "id",
            sqlite_where=text(_UNREPORTED),
            postgresql_where=text(_UNREPORTED),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    federation_id: Mapped[int] = mapped_column(ForeignKey("federations.id"))
    number: Mapped[int]
    kind: Mapped[str]
    phase: Mapped[str]
    reason: Mapped[str | None] = mapped_column(Text)
    base_version: Mapped[int]
    new_version: Mapped[int | None]
    opened_at: Mapped[datetime]
    deadline_at: Mapped[datetime]
    claimed_at: Mapped[datetime | None]
    """When its aggregation began, by whoever carried it out."""
    closed_at: Mapped[datetime | None]
    lease_token: Mapped[str | None]
    """Who aggregates; writes name it, so that those of a stale coordinator change nothing."""
    lease_expires_at: Mapped[datetime | None]
    terms: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    """Of a secure sum, as canonical JSON; None where every update is seen. Hundreds of kilobytes
    in a large cohort, so it is read by name."""
    is_protected: Mapped[bool] = column_property(terms.is_not(None))
    """Whether its updates are summed under masks."""
    metrics: Mapped[dict[str, float] | None]
    """The cohort's means out of a secure sum, once it is committed."""
    report: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    """What it came to over its whole cohort, as JSON: written once, soon after it is closed."""
    next_number: Mapped[int | None]
    """Of the round after this one, where a member has joined one of a higher number than this:
    the database came from a backup. None for the number after this."""


class AssignmentRow(Base):
    """One client's work in one round."""

    __tablename__ = "assignments"
    __table_args__ = (UniqueConstraint("round_id", "client_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    client_id: Mapped[int] = mapped_column(ForeignKey("clients.id"), index=True)
    state: Mapped[str]
    reason: Mapped[str | None] = mapped_column(Text)
    """Why the client declined, its kind first; None where it did not."""
    attempt: Mapped[int]
    lease_expires_at: Mapped[datetime | None]
    bytes_down: Mapped[int] = mapped_column(BigInteger)


class UpdateRow(Base):
    """What a client sent for its assignment; the unique assignment decides duplicates."""

    __tablename__ = "updates"

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), unique=True)
    digest: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    num_examples: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, float]]
    blob_id: Mapped[int | None] = mapped_column(ForeignKey("blobs.id", ondelete="SET NULL"))
    """None once the round is closed and the bytes are deleted."""
    received_at: Mapped[datetime]


class ExchangeMessageRow(Base):
    """What a client sent for a phase of its round's secure sum; deleted when the round is over."""

    __tablename__ = "exchange_messages"

    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("clients.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    """JSON: of a join, what the cohort is shown."""
    digest: Mapped[str]
    """Of the whole message: it may be sent again, and no other in its place."""


class ExchangeShareRow(Base):
    """One member's sealed shares for another; deleted when the round is over.

    A member's rows come together, so they lie together: there are n² of them.
    """

    __tablename__ = "exchange_shares"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 (SQLAlchemy reads it)

    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    sender_id: Mapped[int] = mapped_column(ForeignKey("clients.id"), primary_key=True)
    receiver_id: Mapped[int] = mapped_column(ForeignKey("clients.id"), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    """The sealed shares, and the checks of the seed's and of the mask key's."""


class AuditRow(Base):
    """One thing that somebody did or was refused.

    Triggers refuse to change rows, and to delete rows that are younger than thirty days.
    """

    __tablename__ = "audit_events"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 (SQLAlchemy reads it)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    address: Mapped[str]
    outcome: Mapped[str]
    left_out: Mapped[int]
    """Events before this one that were too many to be written."""
