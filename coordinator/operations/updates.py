"""Receives a client's update: who and what, then the bytes as a stream, then one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.access.identity import ClientPrincipal, require_admitted
from coordinator.context import Context
from coordinator.errors import (
    LeaseLost,
    Refusal,
    RoundClosed,
    UnsupportedMediaType,
    UpdateConflict,
)
from coordinator.operations import state_generations
from coordinator.operations.update_body import digest_of, in_time, rechunked
from coordinator.operations.update_check import UpdateCheck, check_size
from coordinator.operations.update_expectation import expect_update
from coordinator.operations.upload_slots import UploadSlots
from coordinator.rules.verdicts import early_end
from coordinator.store import assignments as assignment_store
from coordinator.store import clients as client_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from coordinator.store import updates as update_store
from coordinator.store import weights as weights_store
from coordinator.store.blobs import BlobWriter
from coordinator.store.tables import AssignmentRow, FederationRow, RoundRow, UpdateRow, WeightsRow
from shared.crash_points import reached
from shared.rest.schema import Receipt, RoundPhase, UpdateMetadata
from shared.rest.state_generation import StateGeneration
from shared.tensors import codec
from shared.tracing.spans import note, span

_OVERTAKEN = (RoundClosed, LeaseLost, UpdateConflict)
"""How an update is refused that was welcome when its first byte came."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class IncomingUpdate:
    """A ``PUT`` of an update, its body not yet read."""

    round_number: int
    attempt: int
    media_type: str
    content_length: int | None
    body: AsyncIterator[bytes]
    state: StateGeneration | None = None
    """The private state that it was saved with; None where the worker does not say."""


@dataclass(frozen=True)
class _Target:
    federation: FederationRow
    round_: RoundRow
    assignment: AssignmentRow
    base: WeightsRow


async def receive(
    context: Context, slots: UploadSlots, principal: ClientPrincipal, incoming: IncomingUpdate
) -> tuple[Receipt, bool]:
    """Records an update; returns its receipt and whether it is new.

    Raises:
        Unauthenticated: the client's credential ended while the body came.
        UnsupportedMediaType, BodyTooLarge, MalformedUpdate, StaleBaseVersion: the body is refused.
        RoundClosed, LeaseLost: the round or the attempt is over.
        UpdateConflict: a different update is recorded.
        TooManyUploads: the client sends it more than once already.
        StateRestored: the client has sent more than its private state knows of.
    """
    try:
        await state_generations.check(context, principal, incoming.state)
        async with slots.taken(principal.client.id, incoming.round_number):
            return await _receive(context, principal, incoming)
    except Refusal as error:
        context.metrics.updates_refused.inc()
        _log.info(
            "update refused",
            federation=principal.federation.name,
            round=incoming.round_number,
            client=principal.client.name,
            problem=type(error).__name__,
            detail=error.detail,
        )
        raise


async def _receive(
    context: Context, principal: ClientPrincipal, incoming: IncomingUpdate
) -> tuple[Receipt, bool]:
    if incoming.media_type != codec.MEDIA_TYPE:
        raise UnsupportedMediaType(
            f"the media type must be {codec.MEDIA_TYPE}, found {incoming.media_type or 'none'}",
            expected=codec.MEDIA_TYPE,
        )
    async with context.database.reading() as session:
        target, recorded = await _find_target(session, principal, incoming)
    expectation = await expect_update(
        context, target.federation, target.round_, target.base, principal.client.name
    )
    if incoming.content_length is not None:
        check_size(incoming.content_length, expectation.max_bytes)
    body = in_time(incoming.body, context.settings)
    if recorded is not None:
        digest = await digest_of(body, expectation.max_bytes)
        async with context.database.reading() as session:
            await require_admitted(session, principal)
            # A copy's update may have been recorded since this request began, of the same bytes.
            await state_generations.check_again(session, principal, incoming.state)
        return _repeat(principal, target.round_, recorded, digest), False
    check = UpdateCheck(expectation)
    writer = context.blobs.writer(context.clock())
    try:
        with span(
            "check",
            federation=principal.federation.name,
            client=principal.client.name,
            round=incoming.round_number,
            attempt=incoming.attempt,
        ):
            async for piece in rechunked(body, context.blobs.chunk_bytes):
                context.metrics.update_bytes.inc(len(piece))
                await asyncio.to_thread(check.feed, piece)
                await writer.append(piece)
            metadata = await asyncio.to_thread(check.finish)
            note(bytes=writer.size_bytes)
        update, was_last = await _record(context, principal, incoming, target, metadata, writer)
    except BaseException as error:
        # Shielded: a client that hangs up cancels this request, and must leave nothing behind.
        await asyncio.shield(writer.discard())
        if isinstance(error, _OVERTAKEN):
            # Perhaps by itself: a client that saw no answer sends its update again meanwhile.
            async with context.database.reading() as session:
                recorded = await update_store.find(session, target.assignment.id)
            if recorded is not None:
                return _repeat(principal, target.round_, recorded, writer.digest), False
        raise
    context.metrics.updates_recorded.inc()
    _log.info(
        "update recorded",
        federation=principal.federation.name,
        round=incoming.round_number,
        client=principal.client.name,
        size_bytes=update.size_bytes,
    )
    if was_last:
        context.driver_wake.set()
    return _receipt(principal, target.round_, update), True


async def _find_target(
    session: AsyncSession, principal: ClientPrincipal, incoming: IncomingUpdate
) -> tuple[_Target, UpdateRow | None]:
    federation = principal.federation
    round_ = await round_store.find(session, federation.id, incoming.round_number)
    assignment = await assignment_store.find(session, round_.id, principal.client.id)
    if assignment is None:
        raise LeaseLost(f"client {principal.client.name} is not in the cohort of the round")
    recorded = await update_store.find(session, assignment.id)
    if recorded is None:
        if round_.phase != RoundPhase.OPEN:
            raise await _round_closed(session, federation, round_)
        if assignment.attempt != incoming.attempt:
            raise _lease_lost(assignment, incoming)
    base = await weights_store.find(session, federation.id, round_.base_version)
    return _Target(federation, round_, assignment, base), recorded


async def _record(
    context: Context,
    principal: ClientPrincipal,
    incoming: IncomingUpdate,
    target: _Target,
    metadata: UpdateMetadata,
    writer: BlobWriter,
) -> tuple[UpdateRow, bool]:
    """The update as it is recorded, and whether its round waits for no other."""
    reached("update-received")
    try:
        async with context.database.writing() as session:
            await client_store.lock(session, principal.client.id)
            await require_admitted(session, principal)
            await state_generations.note(session, principal, incoming.state)
            if not await round_store.lock_open(session, target.round_.id):
                raise await _round_closed(session, target.federation, target.round_)
            update = UpdateRow(
                assignment_id=target.assignment.id,
                digest=writer.digest,
                size_bytes=writer.size_bytes,
                num_examples=metadata.num_examples,
                metrics=metadata.metrics,
                blob_id=await writer.seal(session),
                received_at=context.clock(),
            )
            await update_store.add(session, update)
            if not await assignment_store.submit(session, target.assignment.id, incoming.attempt):
                current = await assignment_store.find(
                    session, target.round_.id, principal.client.id
                )
                raise _lease_lost(current or target.assignment, incoming)
            await client_store.note_update(
                session,
                principal.client.id,
                None if target.round_.is_protected else metadata.num_examples,
            )
            reached("update-recorded-uncommitted")
            was_last = not await assignment_store.has_outstanding(session, target.round_.id)
            ends_early_at = await _bring_forward_end(context, session, target, update.received_at)
    except IntegrityError as error:
        raise UpdateConflict("another update for this round was recorded meanwhile") from error
    reached("update-recorded")
    if ends_early_at is not None:
        _log.info(
            "round has its quorum",
            federation=target.federation.name,
            round=target.round_.number,
            deadline=ends_early_at.isoformat(),
        )
    return update, was_last


async def _bring_forward_end(
    context: Context, session: AsyncSession, target: _Target, now: datetime
) -> datetime | None:
    """Lets the grace time run if the update makes its round's quorum; returns when it ends.

    The round is locked, so that updates that come at once are counted one after the other.
    """
    policy = context.specification(target.federation).round_policy
    if policy.grace_seconds is None:
        return None
    end = early_end(await round_store.facts(session, target.round_), policy, now)
    if end is None or not await round_store.bring_deadline_forward(session, target.round_.id, end):
        return None
    return end


async def _round_closed(
    session: AsyncSession, federation: FederationRow, round_: RoundRow
) -> RoundClosed:
    live = await round_store.find_live(session, federation.id)
    current = await federation_store.get(session, federation.id)
    await session.refresh(current)
    return RoundClosed(
        f"round {round_.number} takes no more updates",
        current_round=None if live is None else live.number,
        weights_version=current.weights_version,
    )


def _lease_lost(assignment: AssignmentRow, incoming: IncomingUpdate) -> LeaseLost:
    return LeaseLost(
        f"the work is not leased to attempt {incoming.attempt}", attempt=assignment.attempt
    )


def _repeat(
    principal: ClientPrincipal, round_: RoundRow, recorded: UpdateRow, digest: str
) -> Receipt:
    if digest != recorded.digest:
        raise UpdateConflict(
            f"a different update of client {principal.client.name} is recorded "
            f"for round {round_.number}",
            expected=recorded.digest,
            found=digest,
        )
    return _receipt(principal, round_, recorded)


def _receipt(principal: ClientPrincipal, round_: RoundRow, recorded: UpdateRow) -> Receipt:
    return Receipt(
        federation=principal.federation.name,
        client=principal.client.name,
        round_number=round_.number,
        digest=recorded.digest,
        size_bytes=recorded.size_bytes,
        received_at=recorded.received_at,
    )
