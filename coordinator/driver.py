"""The loop that moves rounds: opens them, expires leases, aggregates and commits.

Every replica runs one. A step claims under a conditional write, computes with no session open, and
writes its result under the lease it claimed; a result whose lease is gone changes nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from coordinator import blobs, cohort
from coordinator.aggregator import AggregatedRound, aggregate
from coordinator.context import Context
from coordinator.errors import BodyLost
from coordinator.new_weights import NewWeights
from coordinator.outages import Outage, outage_of
from coordinator.retention import Retention
from coordinator.round_updates import AggregationFailed, AggregationLeaseLost
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
from coordinator.settings import MAX_UPLOAD_SECONDS
from coordinator.store import clients as client_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as store
from coordinator.tables import FederationRow, RoundRow, WeightsRow
from shared.schema import FederationState, RoundPhase, TaskKind
from shared.specification import RoundPolicy

_UNSEALED_KEPT = 2 * timedelta(seconds=MAX_UPLOAD_SECONDS)
_LEFTOVERS_EVERY = timedelta(hours=1)

_log = structlog.get_logger()


class Driver:
    """Drives every running federation of one database."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last_activity: dict[int, tuple[str, int | None]] = {}
        self._retention = Retention(context)
        self._leftovers_due_at = context.clock()

    async def run(self) -> None:
        """Advances whenever something happened, and steps every tick, until cancelled."""
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        while True:
            self._context.driver_wake.clear()
            try:
                if loop.time() < next_tick:
                    await self._advance_all()
                else:
                    next_tick = loop.time() + self._context.settings.tick_seconds
                    await self.step()
            except Exception as error:
                if outage_of(error) is None:  # the database has its own log of outages
                    _log.exception("a step of the driver failed")
            try:
                async with asyncio.timeout_at(next_tick):
                    await self._context.driver_wake.wait()
            except TimeoutError:
                pass

    async def step(self) -> None:
        """Moves every federation as far as it goes now, and tidies up."""
        try:
            await self._expire_leases()
            await self._advance_all()
        except SQLAlchemyError as error:
            if outage_of(error) is Outage.STORAGE_FULL:
                await self._sweep()  # perhaps that makes the room that was missing
            raise
        await self._sweep()
        await self._ring_for_changes()

    async def _advance_all(self) -> None:
        async with self._context.database.reading() as session:
            running = await federation_store.list_running(session)
        for federation_id in running:
            try:
                while await self._advance(federation_id):
                    pass
            except SQLAlchemyError:
                raise
            except Exception:
                _log.exception("a federation could not be advanced", federation=federation_id)

    async def _expire_leases(self) -> None:
        now = self._context.clock()
        async with self._context.database.reading() as session:
            if not await store.has_expired_lease(session, now):
                return
        async with self._context.database.writing() as session:
            expired = await store.expire_leases(session, now)
        for assignment_id, attempt in expired:
            _log.info("lease expired", assignment=assignment_id, attempt=attempt)

    async def _ring_for_changes(self) -> None:
        """Wakes long polls for whatever any replica has changed since the last step."""
        async with self._context.database.reading() as session:
            activity = await federation_store.activity(session)
        for federation_id, state, newest_round in activity:
            if self._last_activity.get(federation_id) != (state, newest_round):
                self._last_activity[federation_id] = (state, newest_round)
                self._context.tasks_bell.ring(federation_id)

    async def _sweep(self) -> None:
        """Deletes updates whose round is closed, and what is not kept of older versions."""
        if undiscarded := list(self._context.database.undiscarded_blobs):
            async with self._context.database.writing(durable=False) as session:
                await blobs.delete_if_unsealed(session, undiscarded)
            self._context.database.undiscarded_blobs.difference_update(undiscarded)
        async with self._context.database.reading() as session:
            spent = await store.spent_blobs(session)
            residuals = await federation_store.spent_residuals(session)
        if spent or residuals:
            async with self._context.database.writing() as session:
                locked = await blobs.lock(session, [*spent, *residuals])
                await store.forget_blobs(session, locked)
                await federation_store.forget_residuals(session, locked)
                await blobs.delete_blobs(session, locked)
        await self._retention.apply()
        await self._sweep_leftovers()

    async def _sweep_leftovers(self) -> None:
        """Deletes unsealed blobs that are too old to be an upload in progress, of any replica."""
        now = self._context.clock()
        if now < self._leftovers_due_at:
            return
        self._leftovers_due_at = now + _LEFTOVERS_EVERY
        async with self._context.database.writing() as session:
            removed = await blobs.delete_unsealed(session, now - _UNSEALED_KEPT)
        if removed:
            _log.info("unfinished blobs removed", count=removed)

    async def _advance(self, federation_id: int) -> bool:
        """One transition of one federation; false if there is nothing to do now."""
        async with self._context.database.reading() as session:
            federation = await federation_store.get(session, federation_id)
            if federation.state != FederationState.RUNNING:
                return False
            live = await store.find_live(session, federation_id)
            facts = None if live is None else await store.facts(session, live)
        if live is None or facts is None:
            async with self._context.database.writing() as session:
                step = await self._take_next_step(session, federation_id)
            if not isinstance(step, WaitForClients | None):
                self._context.tasks_bell.ring(federation_id)
            return isinstance(step, OpenRound)
        policy = self._context.specification(federation).round_policy
        verdict, reason = judge(facts, policy, self._context.clock())
        if verdict is Verdict.WAIT:
            return False
        if verdict is Verdict.FAIL:
            await self._fail_if_still_due(federation, live, policy)
            return True
        return await self._aggregate(federation, live, reason)

    async def _take_next_step(self, session: AsyncSession, federation_id: int) -> Step | None:
        """Opens the next round, or ends, pauses or explains; None if there is a round already."""
        if not await federation_store.lock_running(session, federation_id):
            return None
        federation = await federation_store.get(session, federation_id)
        await session.refresh(federation)
        if await store.find_live(session, federation_id) is not None:
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
                await federation_store.move(
                    session,
                    federation_id,
                    FEDERATION_TRANSITIONS[FederationEvent.GIVE_UP],
                    reason=reason,
                )
                _log.warning("federation paused", federation=federation.name, reason=reason)
        return step

    async def _open_round(
        self, session: AsyncSession, federation: FederationRow, kind: TaskKind
    ) -> None:
        specification = self._context.specification(federation)
        policy = specification.round_policy
        now = self._context.clock()
        names = await client_store.list_enrolled_names(session, federation.id)
        number = await store.next_number(session, federation.id)
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
                await store.open_round(session, round_, federation.id, members)
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

    async def _fail_if_still_due(
        self, federation: FederationRow, round_: RoundRow, policy: RoundPolicy
    ) -> None:
        """Fails an open round unless an update that came meanwhile changed its fate."""
        async with self._context.database.writing() as session:
            await federation_store.lock(session, federation.id)
            if not await store.lock_open(session, round_.id):
                return
            facts = await store.facts(session, round_)
            verdict, reason = judge(facts, policy, self._context.clock())
            if verdict is Verdict.FAIL:
                await self._fail_round(session, federation, round_, reason)

    async def _fail_own_round(
        self, federation: FederationRow, round_: RoundRow, token: str, reason: str
    ) -> bool:
        """Fails a round that this coordinator aggregates, if it still does."""
        async with self._context.database.writing() as session:
            await federation_store.lock(session, federation.id)
            await self._fail_round(session, federation, round_, reason, store.leased_under(token))
        return True

    async def _fail_round(
        self,
        session: AsyncSession,
        federation: FederationRow,
        round_: RoundRow,
        reason: str,
        *conditions: Any,
    ) -> None:
        """Within a transaction that has locked the federation."""
        failed = await store.move(
            session,
            round_.id,
            ROUND_TRANSITIONS[RoundEvent.FAIL],
            *conditions,
            closed_at=self._context.clock(),
            reason=reason,
        )
        if failed:
            await federation_store.count_failed_round(session, federation.id)
            self._context.metrics.rounds_closed.labels(phase="failed").inc()
            _log.warning(
                "round failed", federation=federation.name, round=round_.number, reason=reason
            )

    async def _aggregate(self, federation: FederationRow, round_: RoundRow, reason: str) -> bool:
        token = secrets.token_hex(16)
        if not await self._claim(round_, token):
            return False
        log = _log.bind(federation=federation.name, round=round_.number)
        log.info("round aggregating", reason=reason)
        started = asyncio.get_running_loop().time()
        try:
            result = await aggregate(
                self._context, federation, round_, lambda: self._extend(round_, token)
            )
            committed = await self._commit(federation, round_, token, result)
        except AggregationLeaseLost:
            committed = False
        except BodyLost:
            log.warning("aggregation dropped, again when its lease is over: its result was swept")
            return True
        except AggregationFailed as error:
            return await self._fail_own_round(federation, round_, token, str(error))
        except SQLAlchemyError:
            raise
        except Exception as error:
            # Trying again would fail again; a failed round says why, and is not tried for ever.
            log.exception("aggregation failed")
            reason = f"the aggregation failed: {type(error).__name__}: {error}"
            return await self._fail_own_round(federation, round_, token, reason)
        if not committed:
            log.warning("aggregation dropped: another coordinator took the round over")
            return True
        self._context.metrics.rounds_closed.labels(phase="committed").inc()
        self._context.metrics.aggregation_seconds.set(asyncio.get_running_loop().time() - started)
        log.info("round committed", updates=result.num_updates)
        self._context.tasks_bell.ring(federation.id)
        return True

    def _lease_end(self) -> datetime:
        lease = timedelta(seconds=self._context.settings.aggregation_lease_seconds)
        return self._context.clock() + lease

    async def _claim(self, round_: RoundRow, token: str) -> bool:
        async with self._context.database.writing() as session:
            return await store.move(
                session,
                round_.id,
                ROUND_TRANSITIONS[RoundEvent.CLAIM],
                store.not_leased_at(self._context.clock()),
                lease_token=token,
                lease_expires_at=self._lease_end(),
            )

    async def _extend(self, round_: RoundRow, token: str) -> bool:
        async with self._context.database.writing() as session:
            return await store.extend_aggregation(session, round_.id, token, self._lease_end())

    async def _commit(
        self, federation: FederationRow, round_: RoundRow, token: str, result: AggregatedRound
    ) -> bool:
        """Writes the new version, closes the round and opens the next, all or nothing.

        False if the round is not ours any more. What was not committed is discarded.
        """
        committed = False
        try:
            async with self._context.database.writing() as session:
                committed = await self._write_commit(session, federation, round_, token, result)
        except BaseException:
            committed = False
            raise
        finally:
            if not committed and result.new is not None:
                for blob in result.new.blobs:
                    await asyncio.shield(blob.discard())
        return committed

    async def _write_commit(
        self,
        session: AsyncSession,
        federation: FederationRow,
        round_: RoundRow,
        token: str,
        result: AggregatedRound,
    ) -> bool:
        now = self._context.clock()
        new_version = None if result.new is None else round_.base_version + 1
        await federation_store.lock(session, federation.id)
        committed = await store.move(
            session,
            round_.id,
            ROUND_TRANSITIONS[RoundEvent.COMMIT],
            store.leased_under(token),
            closed_at=now,
            new_version=new_version,
            lease_token=None,
            lease_expires_at=None,
        )
        if committed:
            if result.new is not None and new_version is not None:
                await _publish(session, federation.id, new_version, result.new, now)
            await self._take_next_step(session, federation.id)
        return committed


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
