"""Work for a client: leased on a long poll, kept alive by heartbeats, or declined."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from coordinator.access.identity import ClientPrincipal, credential_ended, require_admitted
from coordinator.context import Context, Wait
from coordinator.errors import FederationFinished, LeaseLost, RoundClosed
from coordinator.operations import client_sightings, exchange, state_generations
from coordinator.rules.phases import EXCHANGE_TASKS, WAITING_PHASES, is_over
from coordinator.store import assignments as assignment_store
from coordinator.store import clients as client_store
from coordinator.store import rounds as round_store
from coordinator.store.tables import AssignmentRow, RoundRow
from shared.crash_points import reached
from shared.rest.declines import as_text, from_text
from shared.rest.schema import (
    AssignmentState,
    DeclineReply,
    DeclineRequest,
    FederationState,
    HeartbeatReply,
    RoundPhase,
    Task,
    TaskKind,
)
from shared.rest.state_generation import StateGeneration
from shared.rest.worker_about import WorkerAbout

MAX_WAIT_SECONDS = 30.0
"""The protocol's: proxies cut connections that are silent for longer."""
_FARTHEST_SKIP = 1000
"""Numbers that one round may leave out: a client that lies does not use them up."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Work:
    """A client's task.

    Attributes:
        task: without what a secure sum's members are shown.
        summed: the round of the secure sum that it belongs to, if it does.
    """

    task: Task
    summed: RoundRow | None


async def next_work(
    context: Context,
    principal: ClientPrincipal,
    wait_seconds: float,
    about: WorkerAbout,
    told: StateGeneration | None = None,
) -> Work | Wait | None:
    """The client's task in the open round; else how long to wait for it, None for no longer.

    ``about`` is noted, and so is ``told``, how far the client's private state has come.

    Raises:
        FederationFinished: there will be no more tasks.
        StateRestored: the client has sent more than its private state knows of.
    """
    await state_generations.note_poll(context, principal, told)
    give_up_at = asyncio.get_running_loop().time() + min(wait_seconds, MAX_WAIT_SECONDS)
    await client_sightings.note(context, principal, about)
    rung = context.tasks_bell.listen(principal.federation.id)
    round_number, work = await _look_for_work(context, principal)
    return work or _unless_over(context, Wait(rung, give_up_at, round_number))


async def look_again(
    context: Context, principal: ClientPrincipal, waited: Wait
) -> Work | Wait | None:
    """The same for a poll that has waited.

    It is also answered when another round opens, whether the client takes part or not: so a worker
    knows at once which of its clients do.

    Raises:
        FederationFinished: there will be no more tasks.
        Unauthenticated: the client's credential ended while it waited.
    """
    rung = context.tasks_bell.listen(principal.federation.id)
    round_number, work = await _look_for_work(context, principal)
    if work is not None:
        return work
    if round_number not in (waited.round_number, None):
        return None
    return _unless_over(context, replace(waited, rung=rung))


def _unless_over(context: Context, wait: Wait) -> Wait | None:
    is_over = context.tasks_bell.closed or wait.give_up_at <= asyncio.get_running_loop().time()
    return None if is_over else wait


async def with_view(context: Context, principal: ClientPrincipal, work: Work) -> list[bytes] | None:
    """A task's JSON, with what a secure sum's member is shown; None if the phase has ended.

    In pieces, of which the cohort's members are shown the largest alike: it is there once.
    """
    if work.summed is None:
        return [work.task.model_dump_json().encode()]
    view = await exchange.view_of(context, principal, work.summed)
    if view is None:
        return None
    return [
        work.task.model_dump_json(exclude={"exchange"})[:-1].encode(),
        b',"exchange":',
        *view,
        b"}",
    ]


async def _look_for_work(
    context: Context, principal: ClientPrincipal
) -> tuple[int | None, Work | None]:
    """The number of the live round, and the client's task in it."""
    federation = principal.federation
    async with context.database.reading() as session:
        offer = await assignment_store.find_offer(
            session, federation.id, principal.client.id, principal.token_id
        )
    if not offer.is_client_admitted:
        raise credential_ended()
    if is_over(offer.federation_state):
        raise FederationFinished(
            f"federation {federation.name} is {offer.federation_state}",
            state=offer.federation_state,
        )
    round_, assignment, base = offer.round_, offer.assignment, offer.base
    if round_ is None or offer.federation_state != FederationState.RUNNING:
        return None, None
    if (
        assignment is None
        or base is None
        or round_.phase not in WAITING_PHASES
        or assignment.state in (AssignmentState.SUBMITTED, AssignmentState.DROPPED)
    ):
        return round_.number, None
    attempt = await _lease(context, principal, round_, assignment)
    if attempt is None:
        return round_.number, None
    task = Task(
        kind=EXCHANGE_TASKS.get(RoundPhase(round_.phase), TaskKind(round_.kind)),
        federation=federation.name,
        client=principal.client.name,
        client_number=principal.client.number,
        round_number=round_.number,
        attempt=attempt,
        base_version=base.version,
        base_digest=base.digest,
        lease_seconds=context.specification(federation).round_policy.lease_seconds,
    )
    return round_.number, Work(task, round_ if round_.is_protected else None)


async def _lease(
    context: Context, principal: ClientPrincipal, round_: RoundRow, assignment: AssignmentRow
) -> int | None:
    """The attempt under which the client works: a new one, or its own that still runs."""
    now = context.clock()
    federation, token_id = principal.federation, principal.token_id
    policy = context.specification(federation).round_policy
    expires_at = now + timedelta(seconds=policy.lease_seconds)
    # A lease that a power failure takes back is given again when the client asks again.
    async with context.database.writing(durable=False) as session:
        attempt = await assignment_store.lease(session, assignment.id, token_id, now, expires_at)
        reached("lease-granted-uncommitted")
        if attempt is None:
            current = await assignment_store.find(session, round_.id, assignment.client_id)
            if current is None or not await assignment_store.extend_lease(
                session, current.id, token_id, current.attempt, expires_at
            ):
                await require_admitted(session, principal)
                return None
            return current.attempt
    reached("lease-granted")
    _log.info(
        "work leased",
        federation=federation.name,
        round=round_.number,
        client=principal.client.name,
        attempt=attempt,
    )
    return attempt


async def extend_lease(
    context: Context, principal: ClientPrincipal, round_number: int, attempt: int
) -> HeartbeatReply:
    """Prolongs the client's lease.

    Raises:
        RoundClosed: the round takes no more updates.
        LeaseLost: the lease ran out, or belongs to another attempt.
        Unauthenticated: the client's credential has just ended.
    """
    policy = context.specification(principal.federation).round_policy
    expires_at = context.clock() + timedelta(seconds=policy.lease_seconds)
    async with context.database.writing(durable=False) as session:
        round_ = await round_store.find(session, principal.federation.id, round_number)
        if round_.phase not in WAITING_PHASES:
            raise RoundClosed(f"round {round_number} is {round_.phase}", phase=round_.phase)
        assignment = await assignment_store.find(session, round_.id, principal.client.id)
        if assignment is None or not await assignment_store.extend_lease(
            session, assignment.id, principal.token_id, attempt, expires_at
        ):
            await require_admitted(session, principal)
            raise LeaseLost(
                f"round {round_number} is not leased to attempt {attempt} of this client",
                attempt=None if assignment is None else assignment.attempt,
            )
    return HeartbeatReply(
        round_number=round_number, attempt=attempt, lease_seconds=policy.lease_seconds
    )


async def decline(
    context: Context,
    principal: ClientPrincipal,
    round_number: int,
    attempt: int,
    request: DeclineRequest,
) -> DeclineReply:
    """Records that the client takes no part in the round, which then waits for it no longer.

    Who has declined under an attempt may say so again; the first reason stays. The next round's
    number is beyond the secure sum that the client has joined: this database may be older.

    Raises:
        RoundClosed: the round waits for nobody.
        LeaseLost: the work belongs to another attempt, is done, or was dropped.
        Unauthenticated: the client's credential has just ended.
    """
    why = as_text(request.kind, request.reason)
    # Where there is noise, numbers are a budget, and one client's word must not spend it.
    may_skip = context.specification(principal.federation).training.privacy is None
    async with context.database.writing() as session:
        await client_store.lock(session, principal.client.id)
        await require_admitted(session, principal)
        round_ = await round_store.find(session, principal.federation.id, round_number)
        assignment = await assignment_store.find(session, round_.id, principal.client.id)
        if assignment is not None and assignment.attempt == attempt and assignment.reason:
            _, first_reason = from_text(assignment.reason)
            return DeclineReply(round_number=round_number, reason=first_reason)
        if round_.phase not in WAITING_PHASES or not await round_store.lock_in(
            session, round_.id, RoundPhase(round_.phase)
        ):
            raise RoundClosed(f"round {round_number} waits for nobody", phase=round_.phase)
        if assignment is None or not await assignment_store.decline(
            session, assignment.id, attempt, why
        ):
            raise LeaseLost(
                f"round {round_number} is not leased to attempt {attempt} of this client",
                attempt=None if assignment is None else assignment.attempt,
            )
        await client_store.note_decline(session, principal.client.id, why)
        if round_.is_protected and request.joined_round is not None and may_skip:
            next_number = min(request.joined_round, round_number + _FARTHEST_SKIP) + 1
            await round_store.skip_to(session, round_.id, next_number)
        was_last = not await assignment_store.has_outstanding(session, round_.id)
    _log.info(
        "work declined",
        federation=principal.federation.name,
        round=round_number,
        client=principal.client.name,
        kind=request.kind.value,
        reason=request.reason,
    )
    context.metrics.declines.labels(request.kind.value).inc()
    if was_last:
        context.driver_wake.set()
    return DeclineReply(round_number=round_number, reason=request.reason)
