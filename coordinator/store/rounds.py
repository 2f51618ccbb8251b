"""Queries on rounds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.errors import UnknownThing
from coordinator.rules.phases import LIVE_PHASES, ROUND_TRANSITIONS, RoundEvent, Transition
from coordinator.rules.verdicts import RoundFacts
from coordinator.store.tables import AssignmentRow, ClientRow, RoundRow
from shared.rest.schema import AssignmentState, ClientState, RoundPhase, TaskKind


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
        RoundRow.federation_id == federation_id, RoundRow.phase.in_(LIVE_PHASES)
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
    following = func.coalesce(RoundRow.next_number, RoundRow.number + 1)
    number: int | None = await session.scalar(
        select(func.max(following)).where(RoundRow.federation_id == federation_id)
    )
    return number or 1


async def skip_to(session: AsyncSession, round_id: int, next_number: int) -> None:
    """Has the round after this one have at least ``next_number``, if that is beyond its own."""
    following = func.coalesce(RoundRow.next_number, RoundRow.number + 1)
    await session.execute(
        update(RoundRow)
        .where(RoundRow.id == round_id, following < next_number)
        .values(next_number=next_number)
    )


async def open_round(session: AsyncSession, round_: RoundRow, cohort: Sequence[str]) -> None:
    """Adds a round and the assignments of its cohort, given by name."""
    session.add(round_)
    await session.flush()
    members = select(
        ClientRow.id.label("client_id"),
    ).where(ClientRow.federation_id == round_.federation_id, ClientRow.name.in_(cohort))
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


async def fail_live(
    session: AsyncSession, federation_id: int, now: datetime, reason: str
) -> RoundRow | None:
    """Ends and returns the round that is open or being aggregated, if there is one."""
    live = await find_live(session, federation_id)
    if live is None:
        return None
    transition = ROUND_TRANSITIONS[RoundEvent.FAIL]
    failed = await move(session, live.id, transition, closed_at=now, reason=reason)
    return live if failed else None


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
    """Whether the round is open, and stays so until this transaction ends; see :func:`lock_in`."""
    return await lock_in(session, round_id, RoundPhase.OPEN)


async def lock_in(session: AsyncSession, round_id: int, phase: RoundPhase) -> bool:
    """Whether the round is in a phase, and stays so until this transaction ends.

    A write that changes nothing takes the row's lock on either database: the aggregation's claim
    waits for it, and so sees every update that was recorded before.
    """
    locked = await session.scalar(
        update(RoundRow)
        .where(RoundRow.id == round_id, RoundRow.phase == phase)
        .values(phase=phase)
        .returning(RoundRow.id)
    )
    return locked is not None


async def is_in(session: AsyncSession, round_id: int, phase: RoundPhase) -> bool:
    """Whether the round is in a phase now."""
    query = select(RoundRow.id).where(RoundRow.id == round_id, RoundRow.phase == phase)
    return await session.scalar(query) is not None


async def put_off_deadline(session: AsyncSession, round_id: int, deadline_at: datetime) -> bool:
    """Gives a round that this transaction has locked a later deadline; false if it has one."""
    return await _set_deadline(session, round_id, deadline_at, RoundRow.deadline_at < deadline_at)


async def bring_deadline_forward(
    session: AsyncSession, round_id: int, deadline_at: datetime
) -> bool:
    """Gives a round that this transaction has locked an earlier deadline; false if it has one."""
    return await _set_deadline(session, round_id, deadline_at, RoundRow.deadline_at > deadline_at)


async def _set_deadline(
    session: AsyncSession, round_id: int, deadline_at: datetime, condition: Any
) -> bool:
    changed = await session.scalar(
        update(RoundRow)
        .where(RoundRow.id == round_id, condition)
        .values(deadline_at=deadline_at)
        .returning(RoundRow.id)
    )
    return changed is not None


async def facts(session: AsyncSession, round_: RoundRow) -> RoundFacts:
    """What decides a live round's fate."""
    submitted = AssignmentRow.state == AssignmentState.SUBMITTED
    outstanding = and_(
        AssignmentRow.state.not_in((AssignmentState.SUBMITTED, AssignmentState.DROPPED)),
        ClientRow.state != ClientState.REVOKED,
    )
    counts = (
        await session.execute(
            select(
                func.count().filter(submitted),
                func.count().filter(outstanding),
                func.count().filter(AssignmentRow.reason.is_not(None)),
                func.count(),
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
        declined=counts[2],
        cohort_size=counts[3],
        is_protected=round_.is_protected,
    )
