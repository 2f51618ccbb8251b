"""Work for a client: leased on a long poll, kept alive by heartbeats."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from coordinator.auth import ClientPrincipal
from coordinator.context import Context
from coordinator.errors import FederationFinished, LeaseLost, RoundClosed
from coordinator.store import clients as client_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as store
from coordinator.tables import AssignmentRow, FederationRow, RoundRow
from shared.schema import (
    AssignmentState,
    FederationState,
    HeartbeatReply,
    RoundPhase,
    Task,
    TaskKind,
)

MAX_WAIT_SECONDS = 30.0

_log = structlog.get_logger()


async def next_task(
    context: Context, principal: ClientPrincipal, wait_seconds: float
) -> Task | None:
    """The client's task in the open round; None if there is none within ``wait_seconds``.

    Raises:
        FederationFinished: there will be none any more.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + min(wait_seconds, MAX_WAIT_SECONDS)
    await _mark_seen(context, principal)
    while True:
        rung = context.tasks_bell.listen(principal.federation.id)
        task = await _look_for_task(context, principal)
        remaining = give_up_at - loop.time()
        if task is not None or remaining <= 0 or context.tasks_bell.closed:
            return task
        try:
            await asyncio.wait_for(rung.wait(), remaining)
        except TimeoutError:
            return None


async def _mark_seen(context: Context, principal: ClientPrincipal) -> None:
    now = context.clock()
    if client_store.is_worth_marking_seen(principal.client, now):
        async with context.database.writing(durable=False) as session:
            await client_store.mark_seen(session, principal.client.id, now)


async def _look_for_task(context: Context, principal: ClientPrincipal) -> Task | None:
    async with context.database.reading() as session:
        federation = await federation_store.get(session, principal.federation.id)
        if federation_store.is_over(federation):
            raise FederationFinished(
                f"federation {federation.name} is {federation.state}", state=federation.state
            )
        if federation.state != FederationState.RUNNING:
            return None
        round_ = await store.find_live(session, federation.id)
        if round_ is None or round_.phase != RoundPhase.OPEN:
            return None
        assignment = await store.find_assignment(session, round_.id, principal.client.id)
        if assignment is None or assignment.state == AssignmentState.SUBMITTED:
            return None
        base = await federation_store.find_weights(session, federation.id, round_.base_version)
    attempt = await _lease(context, federation, round_, assignment, principal.client.name)
    if attempt is None:
        return None
    return Task(
        kind=TaskKind(round_.kind),
        federation=federation.name,
        client=principal.client.name,
        round_number=round_.number,
        attempt=attempt,
        base_version=base.version,
        base_digest=base.digest,
        lease_seconds=context.specification(federation).round_policy.lease_seconds,
    )


async def _lease(
    context: Context,
    federation: FederationRow,
    round_: RoundRow,
    assignment: AssignmentRow,
    client_name: str,
) -> int | None:
    """The attempt under which the client works: a new one, or its own that still runs."""
    now = context.clock()
    policy = context.specification(federation).round_policy
    expires_at = now + timedelta(seconds=policy.lease_seconds)
    # A lease that a power failure takes back is given again when the client asks again.
    async with context.database.writing(durable=False) as session:
        attempt = await store.lease(session, assignment.id, now, expires_at)
        if attempt is None:
            current = await store.find_assignment(session, round_.id, assignment.client_id)
            if current is None or not await store.extend_lease(
                session, current.id, current.attempt, expires_at
            ):
                return None
            return current.attempt
    _log.info(
        "work leased",
        federation=federation.name,
        round=round_.number,
        client=client_name,
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
    """
    policy = context.specification(principal.federation).round_policy
    expires_at = context.clock() + timedelta(seconds=policy.lease_seconds)
    async with context.database.writing(durable=False) as session:
        round_ = await store.find(session, principal.federation.id, round_number)
        if round_.phase != RoundPhase.OPEN:
            raise RoundClosed(f"round {round_number} is {round_.phase}", phase=round_.phase)
        assignment = await store.find_assignment(session, round_.id, principal.client.id)
        if assignment is None or not await store.extend_lease(
            session, assignment.id, attempt, expires_at
        ):
            raise LeaseLost(
                f"round {round_number} is not leased to attempt {attempt} of this client",
                attempt=None if assignment is None else assignment.attempt,
            )
    return HeartbeatReply(
        round_number=round_number, attempt=attempt, lease_seconds=policy.lease_seconds
    )
