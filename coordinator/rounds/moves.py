"""Every transition of a federation and its rounds, each in a transaction of its own.

The caller decides when. A move that another coordinator made first changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.aggregation.aggregate import AggregatedRound
from coordinator.aggregation.next_version import NewVersion
from coordinator.context import Context
from coordinator.errors import IllegalTransition, UnreadableSpecification
from coordinator.rounds.aggregation_lease import AggregationLease
from coordinator.rounds.failure_notice import tell_of_failure
from coordinator.rounds.sum_phases import write_terms
from coordinator.rules import cohort
from coordinator.rules.phases import (
    FEDERATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    WAITING_PHASES,
    FederationEvent,
    RoundEvent,
)
from coordinator.rules.verdicts import (
    Complete,
    FederationFacts,
    GiveUp,
    OpenRound,
    Step,
    Verdict,
    WaitForClients,
    deadline_from,
    judge,
    next_step,
)
from coordinator.store import clients as client_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from coordinator.store import weights as weights_store
from coordinator.store.tables import FederationRow, RoundRow, WeightsRow
from shared.crash_points import reached
from shared.federation.specification import RoundPolicy
from shared.rest.schema import FederationAction, RoundPhase, TaskKind

_log = structlog.get_logger()


async def take_next_step(context: Context, federation_id: int) -> Step | None:
    """Opens the next round, or ends, pauses or explains; None if there is a round already."""
    async with context.database.writing() as session:
        step = await _take_next_step(context, session, federation_id)
    if isinstance(step, OpenRound):
        reached("round-opened")
    return step


async def act(context: Context, name: str, action: FederationAction) -> FederationRow:
    """Starts, pauses, resumes or finishes the federation called ``name``; returns its row.

    Raises:
        UnknownThing: there is none.
        IllegalTransition: its state does not allow the action, or it is to run and this version
            cannot read its specification.
    """
    now = context.clock()
    async with context.database.writing() as session:
        federation = await federation_store.find_by_name(session, name)
        if action in (FederationAction.START, FederationAction.RESUME):
            _require_readable(context, federation)
        transition = FEDERATION_TRANSITIONS[action]
        values = _values_of(action, now)
        if not await federation_store.move(session, federation.id, transition, **values):
            raise IllegalTransition(
                f"federation {name} is {federation.state}: {action} is not possible",
                state=federation.state,
            )
        match action:
            case FederationAction.START:
                await federation_store.touch_started(session, federation.id, now)
            case FederationAction.RESUME:
                await _put_off_deadline(context, session, federation, now)
            case FederationAction.FINISH:
                reason = "the federation was finished by an administrator"
                await _fail_live_round(context, session, federation, now, reason)
    _log.info("federation changed", federation=name, action=action.value)
    return federation


async def stop(context: Context, federation: FederationRow, error: UnreadableSpecification) -> None:
    """Pauses what another version may go on with; ends, with its live round, what none can."""
    now, reason = context.clock(), error.detail
    async with context.database.writing() as session:
        if not error.is_damaged:
            await _give_up(session, federation, reason)
        elif await federation_store.move(
            session,
            federation.id,
            FEDERATION_TRANSITIONS[FederationEvent.BREAK],
            finished_at=now,
            reason=reason,
        ):
            await _fail_live_round(context, session, federation, now, reason)
            _log.error("federation failed", federation=federation.name, reason=reason)


async def fail_if_still_due(
    context: Context, federation: FederationRow, round_: RoundRow, policy: RoundPolicy
) -> None:
    """Fails an open round unless an update that came meanwhile changed its fate."""
    async with context.database.writing() as session:
        await federation_store.lock(session, federation.id)
        if not await round_store.lock_in(session, round_.id, RoundPhase(round_.phase)):
            return
        facts = await round_store.facts(session, round_)
        verdict, reason = judge(facts, policy, context.clock())
        if verdict is Verdict.FAIL:
            await _fail(context, session, federation, round_, reason)


async def fail_own(
    context: Context,
    federation: FederationRow,
    round_: RoundRow,
    lease: AggregationLease,
    reason: str,
) -> None:
    """Fails a round that this coordinator aggregates, if it still does."""
    async with context.database.writing() as session:
        await federation_store.lock(session, federation.id)
        await _fail(context, session, federation, round_, reason, lease.still_ours)


async def commit(
    context: Context,
    federation: FederationRow,
    round_: RoundRow,
    lease: AggregationLease,
    result: AggregatedRound,
) -> bool:
    """Writes the new version, closes the round and opens the next, all or nothing.

    False if the round is no longer ours. What was not committed is discarded.
    """
    reached("weights-written")
    committed = is_written = False
    try:
        async with context.database.writing() as session:
            committed = await _commit(context, session, federation, round_, lease, result)
        is_written = committed
    finally:
        if not is_written and result.new is not None:
            for blob in result.new.blobs:
                await asyncio.shield(blob.discard())
    reached("round-committed")
    return committed


async def _commit(
    context: Context,
    session: AsyncSession,
    federation: FederationRow,
    round_: RoundRow,
    lease: AggregationLease,
    result: AggregatedRound,
) -> bool:
    now = context.clock()
    new_version = None if result.new is None else round_.base_version + 1
    await federation_store.lock(session, federation.id)
    committed = await round_store.move(
        session,
        round_.id,
        ROUND_TRANSITIONS[RoundEvent.COMMIT],
        lease.still_ours,
        closed_at=now,
        new_version=new_version,
        metrics=result.metrics,
        lease_token=None,
        lease_expires_at=None,
    )
    if committed:
        if result.new is not None and new_version is not None:
            await _publish(session, federation.id, new_version, result.new, now)
        await _take_next_step(context, session, federation.id)
    return committed


async def _publish(
    session: AsyncSession, federation_id: int, version: int, new: NewVersion, now: datetime
) -> None:
    row = WeightsRow(
        federation_id=federation_id,
        version=version,
        digest=new.digest,
        blob_id=await new.weights.seal(session),
        delta_blob_id=None if new.delta is None else await new.delta.seal(session),
        residual_blob_id=None if new.residual is None else await new.residual.seal(session),
        created_at=now,
    )
    await weights_store.publish(session, row)
    reached("weights-published-uncommitted")


async def _take_next_step(
    context: Context, session: AsyncSession, federation_id: int
) -> Step | None:
    if not await federation_store.lock_running(session, federation_id):
        return None
    federation = await federation_store.get(session, federation_id)
    await session.refresh(federation)
    if await round_store.find_live(session, federation_id) is not None:
        return None
    progress = await federation_store.progress(session, federation_id)
    specification = context.specification(federation)
    members = await client_store.list_members(
        session,
        federation_id,
        only_with_card=specification.protection is not None,
        only_after_poll=True,
    )
    step = next_step(
        FederationFacts(
            weights_version=federation.weights_version,
            failed_rounds=federation.failed_rounds,
            final_evaluation_done=progress.final_evaluation_done,
            ready_clients=len(members),
            last_failure=progress.last_failure,
            needs_cards=specification.protection is not None,
        ),
        specification.round_policy,
    )
    match step:
        case OpenRound(kind):
            await _open_round(context, session, federation, kind, members)
        case WaitForClients(reason):
            if await federation_store.set_reason(session, federation_id, reason):
                _log.info("federation waits", federation=federation.name, reason=reason)
        case Complete():
            await federation_store.move(
                session,
                federation_id,
                FEDERATION_TRANSITIONS[FederationEvent.COMPLETE],
                finished_at=context.clock(),
                reason=None,
            )
            _log.info("federation finished", federation=federation.name)
        case GiveUp(reason):
            await _give_up(session, federation, reason)
    return step


async def _open_round(
    context: Context,
    session: AsyncSession,
    federation: FederationRow,
    kind: TaskKind,
    clients: Mapping[str, str | None],
) -> None:
    specification = context.specification(federation)
    policy = specification.round_policy
    now = context.clock()
    number = await round_store.next_number(session, federation.id)
    size = len(clients) if kind is TaskKind.EVALUATE else policy.size_of_cohort(len(clients))
    is_protected = specification.protection is not None
    draw = cohort.group if is_protected else cohort.sample
    members = draw(specification.parameters.seed, number, list(clients), size)
    phase = RoundPhase.JOINING if is_protected else RoundPhase.OPEN
    base = await weights_store.find(session, federation.id, federation.weights_version)
    cards = {name: clients[name] or "" for name in members}
    round_ = RoundRow(
        federation_id=federation.id,
        number=number,
        kind=kind,
        phase=phase,
        base_version=federation.weights_version,
        opened_at=now,
        deadline_at=deadline_from(now, phase, specification),
        terms=write_terms(federation, kind, number, base, cards) if is_protected else None,
    )
    try:
        async with session.begin_nested():
            await round_store.open_round(session, round_, members)
    except IntegrityError:
        return  # another replica opened it
    await federation_store.set_reason(session, federation.id, None)
    _log.info(
        "round opened",
        federation=federation.name,
        round=number,
        kind=kind.value,
        cohort_size=len(members),
    )
    reached("round-opened-uncommitted")


async def _give_up(session: AsyncSession, federation: FederationRow, reason: str) -> None:
    """Pauses a federation until an administrator resumes it."""
    transition = FEDERATION_TRANSITIONS[FederationEvent.GIVE_UP]
    if await federation_store.move(session, federation.id, transition, reason=reason):
        _log.warning("federation paused", federation=federation.name, reason=reason)


def _require_readable(context: Context, federation: FederationRow) -> None:
    try:
        context.specification(federation)
    except UnreadableSpecification as error:
        raise IllegalTransition(error.detail, state=federation.state) from error


def _values_of(action: FederationAction, now: datetime) -> dict[str, object]:
    """What is written of a federation when an administrator moves it, beside its state."""
    match action:
        case FederationAction.START:
            return {"reason": None}
        case FederationAction.PAUSE:
            return {"reason": "paused by an administrator"}
        case FederationAction.RESUME:
            return {"reason": None, "failed_rounds": 0}
        case FederationAction.FINISH:
            return {"reason": "finished by an administrator", "finished_at": now}


async def _put_off_deadline(
    context: Context, session: AsyncSession, federation: FederationRow, now: datetime
) -> None:
    """Gives a round that a pause interrupted its whole time again."""
    live = await round_store.find_live(session, federation.id)
    if live is None or live.phase not in WAITING_PHASES:
        return
    phase = RoundPhase(live.phase)
    if not await round_store.lock_in(session, live.id, phase):
        return
    facts = await round_store.facts(session, live)
    deadline_at = deadline_from(now, phase, context.specification(federation), facts)
    if await round_store.put_off_deadline(session, live.id, deadline_at):
        _log.info(
            "round goes on",
            federation=federation.name,
            round=live.number,
            deadline=deadline_at.isoformat(),
        )


async def _fail(
    context: Context,
    session: AsyncSession,
    federation: FederationRow,
    round_: RoundRow,
    reason: str,
    *conditions: Any,
) -> None:
    """Fails a round if the conditions of the write hold. The federation is locked."""
    failed = await round_store.move(
        session,
        round_.id,
        ROUND_TRANSITIONS[RoundEvent.FAIL],
        *conditions,
        closed_at=context.clock(),
        reason=reason,
    )
    if failed:
        await federation_store.count_failed_round(session, federation.id)
        await tell_of_failure(context, session, federation, round_, reason)


async def _fail_live_round(
    context: Context, session: AsyncSession, federation: FederationRow, now: datetime, reason: str
) -> None:
    """Ends the round that is open or being aggregated, if there is one."""
    round_ = await round_store.fail_live(session, federation.id, now, reason)
    if round_ is not None:
        await tell_of_failure(context, session, federation, round_, reason)
