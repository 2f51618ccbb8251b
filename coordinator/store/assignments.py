"""Queries on assignments: the work of a round's cohort, client by client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.rules.phases import ASSIGNMENT_TRANSITIONS, LIVE_PHASES, AssignmentEvent
from coordinator.store.clients import admitted_by
from coordinator.store.tables import (
    AssignmentRow,
    ClientRow,
    FederationRow,
    RoundRow,
    UpdateRow,
    WeightsRow,
)
from shared.rest.schema import AssignmentState, ClientState


async def find(session: AsyncSession, round_id: int, client_id: int) -> AssignmentRow | None:
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


_OFFER = (
    select(
        FederationRow.state,
        RoundRow,
        AssignmentRow,
        WeightsRow,
        exists().where(ClientRow.id == bindparam("client"), admitted_by(bindparam("token"))),
    )
    .outerjoin(
        RoundRow,
        and_(RoundRow.federation_id == FederationRow.id, RoundRow.phase.in_(LIVE_PHASES)),
    )
    .outerjoin(
        AssignmentRow,
        and_(
            AssignmentRow.round_id == RoundRow.id,
            AssignmentRow.client_id == bindparam("client"),
        ),
    )
    .outerjoin(
        WeightsRow,
        and_(
            WeightsRow.federation_id == FederationRow.id,
            WeightsRow.version == RoundRow.base_version,
        ),
    )
    .where(FederationRow.id == bindparam("federation"))
)


async def find_offer(
    session: AsyncSession, federation_id: int, client_id: int, token_id: int
) -> Offer:
    """The live round, the client's work in it, and the weights that it starts from."""
    known = {"federation": federation_id, "client": client_id, "token": token_id}
    return Offer(*(await session.execute(_OFFER, known)).one())


async def has_outstanding(session: AsyncSession, round_id: int) -> bool:
    """Whether a round still waits for a client that may take part."""
    query = (
        select(AssignmentRow.id)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .where(
            AssignmentRow.round_id == round_id,
            AssignmentRow.state.not_in((AssignmentState.SUBMITTED, AssignmentState.DROPPED)),
            ClientRow.state != ClientState.REVOKED,
        )
        .limit(1)
    )
    return await session.scalar(query) is not None


async def not_heard_from(session: AsyncSession, round_id: int) -> Sequence[str]:
    """Names of the clients of a round's cohort that have sent no update, in order."""
    names = await session.scalars(
        select(ClientRow.name)
        .join(AssignmentRow, AssignmentRow.client_id == ClientRow.id)
        .outerjoin(UpdateRow, UpdateRow.assignment_id == AssignmentRow.id)
        .where(
            AssignmentRow.round_id == round_id,
            AssignmentRow.state != AssignmentState.SUBMITTED,
            UpdateRow.id.is_(None),
        )
    )
    # Ordered here and not by the database, whose collation is its own.
    return sorted(names)


def _of_client_admitted_by(token_id: int) -> Any:
    """Condition on an assignment; see :func:`coordinator.store.clients.admitted_by`."""
    return exists().where(ClientRow.id == AssignmentRow.client_id, admitted_by(token_id))


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
            _of_client_admitted_by(token_id),
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
            _of_client_admitted_by(token_id),
            AssignmentRow.state == AssignmentState.LEASED,
            AssignmentRow.attempt == attempt,
        )
        .values(lease_expires_at=lease_expires_at)
        .returning(AssignmentRow.id)
    )
    return extended is not None


@dataclass(frozen=True)
class ExpiredLease:
    """Work that a client held for too long."""

    federation: str
    round_number: int
    client: str
    attempt: int


async def expire_leases(session: AsyncSession, now: datetime) -> list[ExpiredLease]:
    """Marks leases that ran out, and says whose they were."""
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
    expired = due.all()
    await session.execute(
        update(AssignmentRow).where(AssignmentRow.id.in_(expired)).values(state=transition.target)
    )
    rows = await session.execute(
        select(FederationRow.name, RoundRow.number, ClientRow.name, AssignmentRow.attempt)
        .join(RoundRow, RoundRow.id == AssignmentRow.round_id)
        .join(FederationRow, FederationRow.id == RoundRow.federation_id)
        .join(ClientRow, ClientRow.id == AssignmentRow.client_id)
        .where(AssignmentRow.id.in_(expired))
        .order_by(AssignmentRow.id)
    )
    return [ExpiredLease(*row) for row in rows]


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


async def decline(session: AsyncSession, assignment_id: int, attempt: int, reason: str) -> bool:
    """Drops work that is still this attempt's, and notes why; see :mod:`shared.rest.declines`."""
    transition = ASSIGNMENT_TRANSITIONS[AssignmentEvent.DECLINE]
    declined = await session.scalar(
        update(AssignmentRow)
        .where(
            AssignmentRow.id == assignment_id,
            AssignmentRow.attempt == attempt,
            AssignmentRow.state.in_(transition.sources),
        )
        .values(state=transition.target, lease_expires_at=None, reason=reason)
        .returning(AssignmentRow.id)
    )
    return declined is not None


async def drop_silent(session: AsyncSession, round_id: int) -> None:
    """Goes on without those that have not submitted."""
    transition = ASSIGNMENT_TRANSITIONS[AssignmentEvent.DROP]
    await session.execute(
        update(AssignmentRow)
        .where(AssignmentRow.round_id == round_id, AssignmentRow.state.in_(transition.sources))
        .values(state=transition.target, lease_expires_at=None)
    )


async def offer_again(session: AsyncSession, round_id: int) -> None:
    """Asks everybody that was not dropped for the next phase's work."""
    transition = ASSIGNMENT_TRANSITIONS[AssignmentEvent.OFFER]
    await session.execute(
        update(AssignmentRow)
        .where(AssignmentRow.round_id == round_id, AssignmentRow.state.in_(transition.sources))
        .values(state=transition.target, lease_expires_at=None)
    )


async def count_download(
    session: AsyncSession, federation_id: int, client_id: int, num_bytes: int
) -> None:
    """Adds to what a client downloaded for its work in the live round, if it has some."""
    live = select(RoundRow.id).where(
        RoundRow.federation_id == federation_id, RoundRow.phase.in_(LIVE_PHASES)
    )
    await session.execute(
        update(AssignmentRow)
        .where(AssignmentRow.round_id.in_(live), AssignmentRow.client_id == client_id)
        .values(bytes_down=AssignmentRow.bytes_down + num_bytes)
    )


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
