"""What administrators ask of federations: create, look, start, pause, resume, finish."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator.blobs import BlobWriter
from coordinator.context import Context
from coordinator.errors import IllegalTransition, NameTaken, UnreadableSpecification
from coordinator.failed_rounds import fail_live_round
from coordinator.rounds import FEDERATION_TRANSITIONS, deadline_from
from coordinator.store import federations as store
from coordinator.store import rounds as round_store
from coordinator.tables import FederationRow, WeightsRow
from shared import codec
from shared.arrays import digest_arrays
from shared.schema import (
    FederationAction,
    FederationState,
    FederationSummary,
    FederationView,
)
from shared.specification import FederationSpecification, document_digest

_log = structlog.get_logger()


async def create(context: Context, specification: FederationSpecification) -> FederationView:
    """Records a federation with its weights version 0.

    Raises:
        NameTaken: a federation of this name exists.
    """
    weights = await asyncio.to_thread(specification.parameters.initial_values)
    digest = await asyncio.to_thread(digest_arrays, weights)
    document = specification.document
    now = context.clock()
    writer = await BlobWriter.write(context.database, now, codec.encode_pieces(weights))
    try:
        async with context.database.writing() as session:
            federation = FederationRow(
                name=specification.name,
                specification=json.dumps(document),
                specification_digest=document_digest(document),
                state=FederationState.DRAFT,
                weights_version=0,
                failed_rounds=0,
                created_at=now,
            )
            session.add(federation)
            await session.flush()
            blob_id = await writer.seal(session)
            await store.publish_weights(
                session,
                WeightsRow(
                    federation_id=federation.id,
                    version=0,
                    digest=digest,
                    blob_id=blob_id,
                    created_at=now,
                ),
            )
    except BaseException as error:
        await asyncio.shield(writer.discard())
        if isinstance(error, IntegrityError):
            raise NameTaken(f"there is a federation {specification.name} already") from error
        raise
    _log.info("federation created", federation=specification.name)
    return await show(context, specification.name)


async def show(context: Context, name: str) -> FederationView:
    """One federation with its specification."""
    async with context.database.reading() as session:
        federation = await store.find_by_name(session, name)
        summary = await _summarise(context, session, federation)
    return FederationView(
        **summary.model_dump(),
        specification=_document(federation),
        specification_digest=federation.specification_digest,
    )


def _document(federation: FederationRow) -> dict[str, Any]:
    """The specification as it was recorded; empty if it is damaged, which its digest betrays."""
    try:
        document = json.loads(federation.specification)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


async def list_all(context: Context) -> list[FederationSummary]:
    """Every federation, in order of name."""
    async with context.database.reading() as session:
        return [
            await _summarise(context, session, federation)
            for federation in await store.list_all(session)
        ]


async def _summarise(
    context: Context, session: AsyncSession, federation: FederationRow
) -> FederationSummary:
    specification: FederationSpecification | None = None
    reason = federation.reason
    try:
        specification = context.specification(federation)
    except UnreadableSpecification as error:
        reason = reason or error.detail
    progress = await store.progress(session, federation)
    return FederationSummary(
        name=federation.name,
        state=FederationState(federation.state),
        reason=reason,
        method=None if specification is None else specification.training.method,
        model=None if specification is None else specification.training.model,
        rounds_committed=federation.weights_version,
        rounds_planned=None if specification is None else specification.round_policy.rounds,
        round_number=progress.live_round_number,
        clients_enrolled=progress.enrolled_clients,
        weights_version=federation.weights_version,
        weights_digest=progress.weights_digest,
        created_at=federation.created_at,
        started_at=federation.started_at,
        finished_at=federation.finished_at,
    )


async def act(context: Context, name: str, action: FederationAction) -> FederationView:
    """Starts, pauses, resumes or finishes a federation.

    Raises:
        IllegalTransition: its state does not allow the action, or it is to run and this version
            cannot read its specification.
    """
    now = context.clock()
    async with context.database.writing() as session:
        federation = await store.find_by_name(session, name)
        await _apply(context, session, federation, action, now)
    _log.info("federation changed", federation=name, action=action.value)
    context.tasks_bell.ring(federation.id)
    context.driver_wake.set()
    return await show(context, name)


async def _apply(
    context: Context,
    session: AsyncSession,
    federation: FederationRow,
    action: FederationAction,
    now: datetime,
) -> None:
    if action in (FederationAction.START, FederationAction.RESUME):
        try:
            context.specification(federation)
        except UnreadableSpecification as error:
            raise IllegalTransition(error.detail, state=federation.state) from error
    values: dict[str, object] = {"reason": None}
    if action is FederationAction.FINISH:
        values |= {"finished_at": now, "reason": "finished by an administrator"}
    if action is FederationAction.RESUME:
        values |= {"failed_rounds": 0}
    if action is FederationAction.PAUSE:
        values |= {"reason": "paused by an administrator"}
    if not await store.move(session, federation.id, FEDERATION_TRANSITIONS[action], **values):
        raise IllegalTransition(
            f"federation {federation.name} is {federation.state}: {action} is not possible",
            state=federation.state,
        )
    if action is FederationAction.START:
        await store.touch_started(session, federation.id, now)
    if action is FederationAction.RESUME:
        deadline_at = deadline_from(now, context.specification(federation).round_policy)
        number = await round_store.put_off_deadline(session, federation.id, deadline_at)
        if number is not None:
            _log.info(
                "round goes on",
                federation=federation.name,
                round=number,
                deadline=deadline_at.isoformat(),
            )
    if action is FederationAction.FINISH:
        reason = "the federation was finished by an administrator"
        await fail_live_round(context, session, federation, now, reason)
