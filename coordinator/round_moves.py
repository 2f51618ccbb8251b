"""What moves a federation and its rounds, each move within a transaction that the caller began.

The caller decides when, and commits. A move that another coordinator made first changes nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator import cohort
from coordinator.aggregation_lease import AggregationLease
from coordinator.aggregator import AggregatedRound
from coordinator.context import Context
from coordinator.errors import UnreadableSpecification
from coordinator.failed_rounds import fail_live_round, note_failed_round
from coordinator.new_weights import NewWeights
from coordinator.rounds import (
    FEDERATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    Complete,
    FederationEvent,
    FederationFacts,
    GiveUp,
    OpenRound,
    RoundEvent,
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
from coordinator.tables import FederationRow, RoundRow, WeightsRow
from shared.schema import RoundPhase, TaskKind
from shared.specification import RoundPolicy

_log = structlog.get_logger()


class RoundMoves:
    """The moves of every federation of one database."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def take_next_step(self, session: AsyncSession, federation_id: int) -> Step | None:
        """Opens the next round, or ends, pauses or explains; None if there is a round already."""
        if not await federation_store.lock_running(session, federation_id):
            return None
        federation = await federation_store.get(session, federation_id)
        await session.refresh(federation)
        if await round_store.find_live(session, federation_id) is not None:
            return None
        progress = await federation_store.progress(session, federation)
        policy = self._context.specification(federation).round_policy
        step = next_step(
            FederationFacts(
                weights_version=federation.weights_version,
                failed_rounds=federation.failed_rounds,
                final_evaluation_done=progress.final_evaluation_done,
                enrolled_clients=progress.enrolled_clients,
                last_failure=progress.last_failure,
            ),
            policy,
        )
        match step:
            case OpenRound(kind):
                await self._open_round(session, federation, kind)
            case WaitForClients(reason):
                if await federation_store.set_reason(session, federation_id, reason):
                    _log.info("federation waits", federation=federation.name, reason=reason)
            case Complete():
                await federation_store.move(
                    session,
                    federation_id,
                    FEDERATION_TRANSITIONS[FederationEvent.COMPLETE],
                    finished_at=self._context.clock(),
                    reason=None,
                )
                _log.info("federation finished", federation=federation.name)
            case GiveUp(reason):
                await self._give_up(session, federation, reason)
        return step

    async def stop(
        self, session: AsyncSession, federation: FederationRow, error: UnreadableSpecification
    ) -> None:
        """Pauses what another version may go on with; ends, with its live round, what none can."""
        now, reason = self._context.clock(), error.detail
        if not error.is_damaged:
            await self._give_up(session, federation, reason)
        elif await federation_store.move(
            session,
            federation.id,
            FEDERATION_TRANSITIONS[FederationEvent.BREAK],
            finished_at=now,
            reason=reason,
        ):
            await fail_live_round(self._context, session, federation, now, reason)
            _log.error("federation failed", federation=federation.name, reason=reason)

    async def fail_if_still_due(
        self,
        session: AsyncSession,
        federation: FederationRow,
        round_: RoundRow,
        policy: RoundPolicy,
    ) -> None:
        """Fails an open round unless an update that came meanwhile changed its fate."""
        await federation_store.lock(session, federation.id)
        if not await round_store.lock_open(session, round_.id):
            return
        verdict, reason = judge(
            await round_store.facts(session, round_), policy, self._context.clock()
        )
        if verdict is Verdict.FAIL:
            await self.fail(session, federation, round_, reason)

    async def fail(
        self,
        session: AsyncSession,
        federation: FederationRow,
        round_: RoundRow,
        reason: str,
        *conditions: Any,
    ) -> None:
        """Fails a round if the conditions of the write hold."""
        await federation_store.lock(session, federation.id)
        failed = await round_store.move(
            session,
            round_.id,
            ROUND_TRANSITIONS[RoundEvent.FAIL],
            *conditions,
            closed_at=self._context.clock(),
            reason=reason,
        )
        if failed:
            await federation_store.count_failed_round(session, federation.id)
            note_failed_round(self._context, session, federation, round_.number, reason)

    async def commit(
        self,
        session: AsyncSession,
        federation: FederationRow,
        round_: RoundRow,
        lease: AggregationLease,
        result: AggregatedRound,
    ) -> bool:
        """Writes the new version, closes the round and opens the next; false if it is not ours."""
        now = self._context.clock()
        new_version = None if result.new is None else round_.base_version + 1
        await federation_store.lock(session, federation.id)
        committed = await round_store.move(
            session,
            round_.id,
            ROUND_TRANSITIONS[RoundEvent.COMMIT],
            lease.is_ours,
            closed_at=now,
            new_version=new_version,
            lease_token=None,
            lease_expires_at=None,
        )
        if committed:
            if result.new is not None and new_version is not None:
                await _publish(session, federation.id, new_version, result.new, now)
            await self.take_next_step(session, federation.id)
        return committed

    async def _open_round(
        self, session: AsyncSession, federation: FederationRow, kind: TaskKind
    ) -> None:
        specification = self._context.specification(federation)
        policy = specification.round_policy
        now = self._context.clock()
        names = await client_store.list_enrolled_names(session, federation.id)
        number = await round_store.next_number(session, federation.id)
        size = len(names) if kind is TaskKind.EVALUATE else policy.size_of_cohort(len(names))
        members = cohort.sample(specification.parameters.seed, number, names, size)
        round_ = RoundRow(
            federation_id=federation.id,
            number=number,
            kind=kind,
            phase=RoundPhase.OPEN,
            base_version=federation.weights_version,
            opened_at=now,
            deadline_at=deadline_from(now, policy),
        )
        try:
            async with session.begin_nested():
                await round_store.open_round(session, round_, federation.id, members)
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

    async def _give_up(self, session: AsyncSession, federation: FederationRow, reason: str) -> None:
        """Pauses a federation until an administrator resumes it."""
        event = FEDERATION_TRANSITIONS[FederationEvent.GIVE_UP]
        if await federation_store.move(session, federation.id, event, reason=reason):
            _log.warning("federation paused", federation=federation.name, reason=reason)


async def _publish(
    session: AsyncSession, federation_id: int, version: int, new: NewWeights, now: datetime
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
    await federation_store.publish_weights(session, row)
