"""What administrators ask of federations: create, look, start, pause, resume, finish."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError

from coordinator.context import Context, SpecificationOutline
from coordinator.errors import InvalidSpecification, NameTaken
from coordinator.rounds import moves
from coordinator.store import federations as store
from coordinator.store import weights as weights_store
from coordinator.store.tables import FederationRow, WeightsRow
from shared.arrays import digest_arrays
from shared.federation.noise_rules import check_agreed_noise
from shared.federation.specification import FederationSpecification, document_digest
from shared.rest.schema import (
    FederationAction,
    FederationState,
    FederationSummary,
    FederationView,
)
from shared.secure_sum.layout import check_sum_fits
from shared.tensors import codec

_log = structlog.get_logger()


async def create(context: Context, specification: FederationSpecification) -> FederationView:
    """Records a federation with its weights version 0.

    Raises:
        NameTaken: a federation of this name exists.
        InvalidSpecification: its noise does not keep to its privacy budget, or its sum does not
            fit.
    """
    await asyncio.to_thread(_check_arithmetic, specification)
    weights = await asyncio.to_thread(specification.parameters.initial_values)
    digest = await asyncio.to_thread(digest_arrays, weights)
    document = specification.document
    now = context.clock()
    writer = await context.blobs.write(now, codec.encode_pieces(weights))
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
            await store.add(session, federation)
            blob_id = await writer.seal(session)
            await weights_store.publish(
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
            raise NameTaken(f"a federation named {specification.name} already exists") from error
        raise
    _log.info("federation created", federation=specification.name)
    return await show(context, specification.name)


def _check_arithmetic(specification: FederationSpecification) -> None:
    """Whether the noise keeps to its budget, and a sum fits into its ring."""
    try:
        check_agreed_noise(specification.training)
        check_sum_fits(specification)
    except ValueError as error:
        raise InvalidSpecification(str(error)) from error


async def show(context: Context, name: str) -> FederationView:
    """One federation with its specification."""
    async with context.database.reading() as session:
        federation = await store.find_by_name(session, name)
        progress = await store.progress(session, federation.id)
    summary = _summarise(federation, context.specifications.outline_of(federation), progress)
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
    """Every federation, in order of name: one query, once each specification was seen."""
    outlines = context.specifications
    async with context.database.reading() as session:
        listed = await store.list_with_progress(session)
        unseen = [federation.id for federation, _ in listed if not outlines.knows(federation.id)]
        rows = await store.list_by_key(session, unseen) if unseen else ()
    for federation in rows:
        await outlines.learn(federation)
    return [
        _summarise(federation, outlines.outline_of(federation), progress)
        for federation, progress in listed
    ]


def _summarise(
    federation: FederationRow, outline: SpecificationOutline, progress: store.Progress
) -> FederationSummary:
    return FederationSummary(
        name=federation.name,
        state=FederationState(federation.state),
        reason=federation.reason or outline.fault,
        method=outline.method,
        model=outline.model,
        rounds_committed=federation.weights_version,
        rounds_planned=outline.rounds,
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
        UnknownThing: there is none of this name.
        IllegalTransition: its state does not allow the action, or it is to run and this version
            cannot read its specification.
    """
    federation = await moves.act(context, name, action)
    context.tasks_bell.ring(federation.id)
    context.driver_wake.set()
    return await show(context, name)
