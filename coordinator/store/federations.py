"""Queries on federations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, defer

from coordinator.errors import UnknownThing
from coordinator.rules.phases import LIVE_PHASES, Transition
from coordinator.store.tables import ClientRow, FederationRow, RoundRow, WeightsRow
from shared.rest.schema import ClientState, FederationState, RoundPhase, TaskKind


async def find_by_name(session: AsyncSession, name: str) -> FederationRow:
    """The federation called ``name``; UnknownThing if there is none."""
    row = await session.scalar(select(FederationRow).where(FederationRow.name == name))
    if row is None:
        raise UnknownThing(f"there is no federation {name}", federation=name)
    return row


async def add(session: AsyncSession, federation: FederationRow) -> None:
    """Adds a federation, which gets its key; IntegrityError if its name is taken."""
    session.add(federation)
    await session.flush()


async def get(session: AsyncSession, federation_id: int) -> FederationRow:
    """The federation with this key."""
    return await session.get_one(FederationRow, federation_id)


async def list_running(session: AsyncSession) -> list[tuple[int, str]]:
    """Keys and names of the federations that have work to do."""
    rows = await session.execute(
        select(FederationRow.id, FederationRow.name)
        .where(FederationRow.state == FederationState.RUNNING)
        .order_by(FederationRow.id)
    )
    return [(key, name) for key, name in rows]


async def move(
    session: AsyncSession,
    federation_id: int,
    transition: Transition[FederationState],
    **values: Any,
) -> bool:
    """Applies a transition if the state allows it; ``values`` are written with it."""
    moved = await session.scalar(
        update(FederationRow)
        .where(FederationRow.id == federation_id, FederationRow.state.in_(transition.sources))
        .values(state=transition.target, **values)
        .returning(FederationRow.id)
    )
    return moved is not None


async def lock(session: AsyncSession, federation_id: int) -> None:
    """Keeps everyone else from changing the federation until this transaction ends."""
    await session.execute(
        select(FederationRow.id)
        .where(FederationRow.id == federation_id)
        .with_for_update(key_share=True)
    )


async def lock_running(session: AsyncSession, federation_id: int) -> bool:
    """Whether the federation runs, and goes on running until this transaction ends."""
    running = await session.scalar(
        update(FederationRow)
        .where(FederationRow.id == federation_id, FederationRow.state == FederationState.RUNNING)
        .values(state=FederationState.RUNNING)
        .returning(FederationRow.id)
    )
    return running is not None


async def set_reason(session: AsyncSession, federation_id: int, reason: str | None) -> bool:
    """Says why a running federation waits; true if that is news."""
    changed = await session.scalar(
        update(FederationRow)
        .where(
            FederationRow.id == federation_id,
            FederationRow.state == FederationState.RUNNING,
            FederationRow.reason.is_distinct_from(reason),
        )
        .values(reason=reason)
        .returning(FederationRow.id)
    )
    return changed is not None


async def count_failed_round(session: AsyncSession, federation_id: int) -> None:
    """One more failed round since the last committed one."""
    await session.execute(
        update(FederationRow)
        .where(FederationRow.id == federation_id)
        .values(failed_rounds=FederationRow.failed_rounds + 1)
    )


@dataclass(frozen=True)
class Progress:
    """What lists and next steps need to know of a federation beside its own row."""

    weights_digest: str
    enrolled_clients: int
    live_round_number: int | None
    final_evaluation_done: bool
    last_failure: str | None
    """Why the newest round failed, if it did."""


async def progress(session: AsyncSession, federation_id: int) -> Progress:
    """Counts and the live round of one federation."""
    query = select(*_progress()).where(FederationRow.id == federation_id)
    return Progress(*(await session.execute(query)).one())


async def list_with_progress(session: AsyncSession) -> Sequence[tuple[FederationRow, Progress]]:
    """All federations in order of name; their specifications, which may be large, stay behind."""
    rows = await session.execute(
        select(FederationRow, *_progress())
        .options(defer(FederationRow.specification, raiseload=True))
        .order_by(FederationRow.name)
    )
    return [(federation, Progress(*rest)) for federation, *rest in rows]


async def list_by_key(
    session: AsyncSession, federation_ids: Collection[int]
) -> Sequence[FederationRow]:
    """Some federations whole, in no order."""
    query = select(FederationRow).where(FederationRow.id.in_(federation_ids))
    return (await session.scalars(query.execution_options(populate_existing=True))).all()


def _progress() -> Sequence[ColumnElement[Any]]:
    """The columns of :class:`Progress`, in its order, of the federation that is selected."""
    rounds = RoundRow.federation_id == FederationRow.id
    other = aliased(RoundRow)
    newest = select(func.max(other.number)).where(other.federation_id == FederationRow.id)
    return (
        select(WeightsRow.digest)
        .where(
            WeightsRow.federation_id == FederationRow.id,
            WeightsRow.version == FederationRow.weights_version,
        )
        .scalar_subquery(),
        select(func.count())
        .select_from(ClientRow)
        .where(ClientRow.federation_id == FederationRow.id, ClientRow.state == ClientState.ENROLLED)
        .scalar_subquery(),
        select(RoundRow.number).where(rounds, RoundRow.phase.in_(LIVE_PHASES)).scalar_subquery(),
        exists().where(
            rounds, RoundRow.kind == TaskKind.EVALUATE, RoundRow.phase == RoundPhase.COMMITTED
        ),
        select(RoundRow.reason)
        .where(
            rounds,
            RoundRow.phase == RoundPhase.FAILED,
            RoundRow.number == newest.scalar_subquery(),
        )
        .scalar_subquery(),
    )


Activity = tuple[str, int | None, str | None]
"""A federation's state, the number of its newest round and the phase of its live one."""


async def activity(session: AsyncSession) -> Sequence[tuple[int, Activity]]:
    """What long polls wait to see change, of every federation by its key."""
    live = aliased(RoundRow)
    live_phase = select(live.phase).where(
        live.federation_id == FederationRow.id, live.phase.in_(LIVE_PHASES)
    )
    rows = await session.execute(
        select(
            FederationRow.id,
            FederationRow.state,
            func.max(RoundRow.number),
            live_phase.scalar_subquery(),
        )
        .outerjoin(RoundRow, RoundRow.federation_id == FederationRow.id)
        .group_by(FederationRow.id, FederationRow.state)
    )
    return [(key, (state, number, phase)) for key, state, number, phase in rows]


async def touch_started(session: AsyncSession, federation_id: int, now: datetime) -> None:
    """Records the first start."""
    await session.execute(
        update(FederationRow)
        .where(FederationRow.id == federation_id, FederationRow.started_at.is_(None))
        .values(started_at=now)
    )
