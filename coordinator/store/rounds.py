"""Queries on rounds, assignments and updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.errors import UnknownThing
from coordinator.rounds import (
    ASSIGNMENT_TRANSITIONS,
    ROUND_TRANSITIONS,
    AssignmentEvent,
    RoundEvent,
    RoundFacts,
    Transition,
)
from coordinator.store.clients import is_admitted_by
from coordinator.tables import (
    AssignmentRow,
    BlobRow,
    ClientRow,
    FederationRow,
    RoundRow,
    UpdateRow,
    WeightsRow,
)
from shared.schema import AssignmentState, ClientState, RoundPhase, TaskKind

_LIVE = (RoundPhase.OPEN, RoundPhase.AGGREGATING)


async def find(session: AsyncSession, federation_id: int, number: int) -> RoundRow:
    """One round; UnknownThing if it was never opened."""
    row = await session.scalar(
        select(RoundRow).where(RoundRow.federation_id == federation_id, RoundRow.number == number)
    )
    if row is None:
        raise UnknownThing(f"there is no round {number}", round_number=number)
    return row


async def find_live(session: AsyncSession, federation_id: int) -> RoundRow | None:
    """The round that is open or being aggregated; a federation has at most one."""
    query = select(RoundRow).where(
        RoundRow.federation_id == federation_id, RoundRow.phase.in_(_LIVE)
    )
    row: RoundRow | None = await session.scalar(query)
    return row


async def list_numbered(
    session: AsyncSession, federation_id: int, first: int, limit: int
) -> Sequence[RoundRow]:
    """Rounds from number ``first`` on, at most ``limit``."""
    return (
        await session.scalars(
            select(RoundRow)
            .where(RoundRow.federation_id == federation_id, RoundRow.number >= first)
            .order_by(RoundRow.number)
            .limit(limit)
        )
    ).all()


async def next_number(session: AsyncSession, federation_id: int) -> int:
    """The number of the federation's next round; the first is 1."""
    newest = await session.scalar(
        select(func.max(RoundRow.number)).where(RoundRow.federation_id == federation_id)
    )
    return (newest or 0) + 1


async def open_round(
    session: AsyncSession, round_: RoundRow, federation_id: int, cohort: Sequence[str]
) -> None:
    """Adds a round and the assignments of its cohort, given by name."""
    session.add(round_)
    await session.flush()
    members = select(
        ClientRow.id.label("client_id"),
    ).where(ClientRow.federation_id == federation_id, ClientRow.name.in_(cohort))
    client_ids = (await session.scalars(members)).all()
    await session.execute(
        insert(AssignmentRow),
        [
            {
                "round_id": round_.id,
                "client_id": client_id,
                "state": AssignmentState.OFFERED,
                "attempt": 0,
                "bytes_down": 0,
            }
            for client_id in client_ids
        ],
    )


async def move(
    session: AsyncSession,
    round_id: int,
    transition: Transition[RoundPhase],
    *conditions: Any,
    **values: Any,
) -> bool:
    """Applies a transition if the phase and the further ``conditions`` allow it."""
    moved = await session.scalar(
        update(RoundRow)
        .where(RoundRow.id == round_id, RoundRow.phase.in_(transition.sources), *conditions)
        .values(phase=transition.target, **values)
        .returning(RoundRow.id)
    )
    return moved is not None


async def fail_live(session: AsyncSession, federation_id: int, now: datetime, reason: str) -> None:
    """Ends the round that is open or being aggregated, if there is one."""
    live = await find_live(session, federation_id)
    if live is not None:
        transition = ROUND_TRANSITIONS[RoundEvent.FAIL]
        await move(session, live.id, transition, closed_at=now, reason=reason)


def not_leased_at(now: datetime) -> Any:
    """Condition: nobody aggregates the round, or its lease has run out."""
    return or_(RoundRow.lease_expires_at.is_(None), RoundRow.lease_expires_at <= now)


def leased_under(token: str) -> Any:
    """Condition: the round's aggregation is still ours."""
    return RoundRow.lease_token == token


async def extend_aggregation(
    session: AsyncSession, round_id: int, token: str, lease_expires_at: datetime
) -> bool:
    """Prolongs our aggregation lease; false if it is no longer ours, or the round is closed."""
    extended = await session.scalar(
        update(RoundRow)
        .where(
            RoundRow.id == round_id, RoundRow.phase == RoundPhase.AGGREGATING, leased_under(token)
        )
        .values(lease_expires_at=lease_expires_at)
        .returning(RoundRow.id)
    )
    return extended is not None


async def lock_open(session: AsyncSession, round_id: int) -> bool:
    """Whether the round is open, and stays so until this transaction ends.

    A write that changes nothing takes the row's lock on either database: the aggregation's claim
    waits for it, and so sees every update that was recorded before.
    """
    open_id = await session.scalar(
        update(RoundRow)
        .where(RoundRow.id == round_id, RoundRow.phase == RoundPhase.OPEN)
        .values(phase=RoundPhase.OPEN)
        .returning(RoundRow.id)
    )
    return open_id is not None


async def put_off_deadline(
    session: AsyncSession, federation_id: int, deadline_at: datetime
) -> int | None:
    """Gives the federation's open round a later deadline; the round's number if it has one."""
    number: int | None = await session.scalar(
        update(RoundRow)
        .where(
            RoundRow.federation_id == federation_id,
            RoundRow.phase == RoundPhase.OPEN,
            RoundRow.deadline_at < deadline_at,
        )
        .values(deadline_at=deadline_at)
        .returning(RoundRow.number)
    )
    return number


async def facts(session: AsyncSession, round_: RoundRow) -> RoundFacts:
    """What decides a live round's fate."""
    submitted = AssignmentRow.state == AssignmentState.SUBMITTED
    outstanding = and_(~submitted, ClientRow.state != ClientState.REVOKED)
    counts = (
        await session.execute(
            select(
                func.count().filter(submitted),
                func.count().filter(outstanding),
            )
            .select_from(AssignmentRow)
            .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
            .where(AssignmentRow.round_id == round_.id)
        )
    ).one()
    return RoundFacts(
        kind=TaskKind(round_.kind),
        phase=RoundPhase(round_.phase),
        deadline_at=round_.deadline_at,
        lease_expires_at=round_.lease_expires_at,
        submitted=counts[0],
        outstanding=counts[1],
    )


async def find_assignment(
    session: AsyncSession, round_id: int, client_id: int
) -> AssignmentRow | None:
    """A client's work in a round, if it is in the cohort."""
    query = select(AssignmentRow).where(
        AssignmentRow.round_id == round_id, AssignmentRow.client_id == client_id
    )
    row: AssignmentRow | None = await session.scalar(query)
    return row


@dataclass(frozen=True)
class Offer:
    """What a federation's live round, if there is one, has for a client."""

    federation_state: str
    round_: RoundRow | None
    assignment: AssignmentRow | None
    base: WeightsRow | None
    is_client_admitted: bool


async def find_offer(
    session: AsyncSession, federation_id: int, client_id: int, token_id: int
) -> Offer:
    """The live round, the client's work in it, and the weights that it starts from."""
    admitted = exists().where(ClientRow.id == client_id, is_admitted_by(token_id))
    row = (
        await session.execute(
            select(FederationRow.state, RoundRow, AssignmentRow, WeightsRow, admitted)
            .outerjoin(
                RoundRow,
                and_(RoundRow.federation_id == FederationRow.id, RoundRow.phase.in_(_LIVE)),
            )
            .outerjoin(
                AssignmentRow,
                and_(AssignmentRow.round_id == RoundRow.id, AssignmentRow.client_id == client_id),
            )
            .outerjoin(
                WeightsRow,
                and_(
                    WeightsRow.federation_id == FederationRow.id,
                    WeightsRow.version == RoundRow.base_version,
                ),
            )
            .where(FederationRow.id == federation_id)
        )
    ).one()
    return Offer(*row)


async def has_outstanding(session: AsyncSession, round_id: int) -> bool:
    """Whether a round still waits for a client that may take part."""
    query = (
        select(AssignmentRow.id)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .where(
            AssignmentRow.round_id == round_id,
            AssignmentRow.state != AssignmentState.SUBMITTED,
            ClientRow.state != ClientState.REVOKED,
        )
        .limit(1)
    )
    return await session.scalar(query) is not None


def _is_of_client_admitted_by(token_id: int) -> Any:
    """Condition on an assignment; see :func:`coordinator.store.clients.is_admitted_by`."""
    return exists().where(ClientRow.id == AssignmentRow.client_id, is_admitted_by(token_id))


async def lease(
    session: AsyncSession,
    assignment_id: int,
    token_id: int,
    now: datetime,
    lease_expires_at: datetime,
) -> int | None:
    """Leases work anew with the next attempt.

    None if it is leased or submitted already, or the client's credential has ended.
    """
    sources = ASSIGNMENT_TRANSITIONS[AssignmentEvent.LEASE].sources
    attempt: int | None = await session.scalar(
        update(AssignmentRow)
        .where(
            AssignmentRow.id == assignment_id,
            _is_of_client_admitted_by(token_id),
            AssignmentRow.state.in_(sources),
            or_(
                AssignmentRow.state != AssignmentState.LEASED,
                AssignmentRow.lease_expires_at <= now,
            ),
        )
        .values(
            state=AssignmentState.LEASED,
            attempt=AssignmentRow.attempt + 1,
            lease_expires_at=lease_expires_at,
        )
        .returning(AssignmentRow.attempt)
    )
    return attempt


async def extend_lease(
    session: AsyncSession,
    assignment_id: int,
    token_id: int,
    attempt: int,
    lease_expires_at: datetime,
) -> bool:
    """Prolongs a lease that is still this attempt's, of a client whose credential has not ended."""
    extended = await session.scalar(
        update(AssignmentRow)
        .where(
            AssignmentRow.id == assignment_id,
            _is_of_client_admitted_by(token_id),
            AssignmentRow.state == AssignmentState.LEASED,
            AssignmentRow.attempt == attempt,
        )
        .values(lease_expires_at=lease_expires_at)
        .returning(AssignmentRow.id)
    )
    return extended is not None


async def expire_leases(session: AsyncSession, now: datetime) -> Sequence[tuple[int, int]]:
    """Marks leases that ran out; returns (assignment, attempt) of each."""
    transition = ASSIGNMENT_TRANSITIONS[AssignmentEvent.EXPIRE]
    # Those that another transaction holds are renewed, delivered or marked there.
    due = await session.scalars(
        select(AssignmentRow.id)
        .where(
            AssignmentRow.state.in_(transition.sources),
            AssignmentRow.lease_expires_at <= now,
        )
        .order_by(AssignmentRow.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    rows = await session.execute(
        update(AssignmentRow)
        .where(AssignmentRow.id.in_(due.all()))
        .values(state=transition.target)
        .returning(AssignmentRow.id, AssignmentRow.attempt)
    )
    return [(assignment_id, attempt) for assignment_id, attempt in rows]


async def has_expired_lease(session: AsyncSession, now: datetime) -> bool:
    """Whether any lease ran out; asked first, so that an idle coordinator writes nothing."""
    query = (
        select(AssignmentRow.id)
        .where(AssignmentRow.state == AssignmentState.LEASED, AssignmentRow.lease_expires_at <= now)
        .limit(1)
    )
    return await session.scalar(query) is not None


async def submit(session: AsyncSession, assignment_id: int, attempt: int) -> bool:
    """Marks work as delivered if it is still this attempt's."""
    transition = ASSIGNMENT_TRANSITIONS[AssignmentEvent.SUBMIT]
    submitted = await session.scalar(
        update(AssignmentRow)
        .where(
            AssignmentRow.id == assignment_id,
            AssignmentRow.attempt == attempt,
            AssignmentRow.state.in_(transition.sources),
        )
        .values(state=transition.target, lease_expires_at=None)
        .returning(AssignmentRow.id)
    )
    return submitted is not None


async def find_update(session: AsyncSession, assignment_id: int) -> UpdateRow | None:
    """The update recorded for an assignment, if any."""
    query = select(UpdateRow).where(UpdateRow.assignment_id == assignment_id)
    row: UpdateRow | None = await session.scalar(query)
    return row


async def count_download(session: AsyncSession, assignment_id: int, num_bytes: int) -> None:
    """Adds to what a client downloaded for its work."""
    await session.execute(
        update(AssignmentRow)
        .where(AssignmentRow.id == assignment_id)
        .values(bytes_down=AssignmentRow.bytes_down + num_bytes)
    )


@dataclass(frozen=True)
class Contribution:
    """One recorded update of a round that is being aggregated."""

    client_name: str
    num_examples: int
    blob_id: int | None
    digest: str
    size_bytes: int


async def contributions(session: AsyncSession, round_id: int) -> Sequence[Contribution]:
    """A round's updates in order of client name: the order in which they are summed."""
    rows = await session.execute(
        select(
            ClientRow.name,
            UpdateRow.num_examples,
            UpdateRow.blob_id,
            UpdateRow.digest,
            UpdateRow.size_bytes,
        )
        .join(AssignmentRow, AssignmentRow.id == UpdateRow.assignment_id)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .where(AssignmentRow.round_id == round_id)
    )
    # Ordered here and not by the database, whose collation is its own.
    return sorted((Contribution(*row) for row in rows), key=lambda c: c.client_name)


async def members(
    session: AsyncSession, round_ids: Sequence[int]
) -> Sequence[tuple[AssignmentRow, str, UpdateRow | None]]:
    """Assignments of some rounds with client name and update, in order of round and name."""
    rows = await session.execute(
        select(AssignmentRow, ClientRow.name, UpdateRow)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.round_id.in_(round_ids))
        .order_by(AssignmentRow.round_id, ClientRow.name)
    )
    return [(assignment, name, recorded) for assignment, name, recorded in rows]


async def spent_blobs(session: AsyncSession) -> Sequence[int]:
    """Blobs of updates whose round is closed: their bytes are no longer needed."""
    return (
        await session.scalars(
            select(BlobRow.id)
            .join(UpdateRow, UpdateRow.blob_id == BlobRow.id)
            .join(AssignmentRow, AssignmentRow.id == UpdateRow.assignment_id)
            .join(RoundRow, RoundRow.id == AssignmentRow.round_id)
            .where(RoundRow.phase.not_in(_LIVE))
        )
    ).all()


async def forget_blobs(session: AsyncSession, blob_ids: Sequence[int]) -> None:
    """Takes spent blobs off their updates, so that they can be deleted."""
    await session.execute(
        update(UpdateRow).where(UpdateRow.blob_id.in_(blob_ids)).values(blob_id=None)
    )
