"""The loop that moves rounds: opens them, expires leases, aggregates and commits.

Every replica runs one. A step claims under a conditional write, computes with no session open, and
writes its result under the lease it claimed; a result whose lease is gone changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from coordinator.aggregation.aggregate import AggregatedRound, aggregate
from coordinator.context import Context
from coordinator.database.outages import isolated, outage_of
from coordinator.errors import (
    AggregationFailed,
    AggregationLeaseLost,
    BodyLost,
    UnreadableSpecification,
)
from coordinator.rounds import moves
from coordinator.rounds.aggregation_lease import AggregationLease, Sleep
from coordinator.rounds.reporter import Reporter
from coordinator.rounds.round_span import round_span
from coordinator.rounds.sum_phases import begin_next_phase
from coordinator.rounds.sweeper import Sweeper
from coordinator.rules.verdicts import OpenRound, Verdict, WaitForClients, judge
from coordinator.store import assignments as assignment_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from coordinator.store.assignments import ExpiredLease
from coordinator.store.tables import FederationRow, RoundRow
from shared.rest.schema import MAX_NAMED, FederationState
from shared.tracing.spans import in_round, note, span

_AGGREGATED_AT_ONCE = 2
"""Each holds a few copies of its federation's weights in memory, so they are few; with a second
one, an aggregation that takes long does not hold up the others'."""

_log = structlog.get_logger()

Aggregate = Callable[[Context, FederationRow, RoundRow], Awaitable[AggregatedRound]]


@dataclass(frozen=True)
class _DueAggregation:
    """A round that waits for nothing but to be aggregated."""

    federation: FederationRow
    round_: RoundRow
    reason: str


class Driver:
    """Drives every running federation of one database."""

    def __init__(
        self, context: Context, sleep: Sleep = asyncio.sleep, aggregate: Aggregate = aggregate
    ) -> None:
        self._context = context
        self._sleep = sleep
        self._compute = aggregate
        self._last_activity: dict[int, federation_store.Activity] = {}
        self._reporter = Reporter(context)
        self._sweeper = Sweeper(context)
        self._aggregating: set[int] = set()
        """Federations with an aggregation that runs here, or waits until it may."""
        self._places = asyncio.Semaphore(_AGGREGATED_AT_ONCE)

    async def run(self) -> None:
        """Advances whenever something happened, and steps every tick, until cancelled.

        Aggregations go on beside it.
        """
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        async with asyncio.TaskGroup() as aggregations:
            while True:
                self._context.driver_pulse.beat()
                self._context.driver_wake.clear()
                if loop.time() < next_tick:
                    await self._advance_all(aggregations)
                else:
                    next_tick = loop.time() + self._context.settings.tick_seconds
                    await self._expire_leases()
                    await self._advance_all(aggregations)
                    await self._tidy_up()
                try:
                    async with asyncio.timeout_at(next_tick):
                        await self._context.driver_wake.wait()
                except TimeoutError:
                    pass

    async def step(self) -> None:
        """Moves every federation as far as it goes now, aggregations too, and tidies up."""
        await self._expire_leases()
        goes_on = True
        while goes_on:
            async with asyncio.TaskGroup() as aggregations:
                begun = await self._advance_all(aggregations)
            goes_on = any(aggregation.result() for aggregation in begun)
        await self._tidy_up()

    async def _advance_all(self, aggregations: asyncio.TaskGroup) -> list[asyncio.Task[bool]]:
        """Moves every federation up to its next aggregation; returns those that it began."""
        begun: list[asyncio.Task[bool]] = []
        with isolated("federations could not be advanced", outages_too=True):
            async with self._context.database.reading() as session:
                running = await federation_store.list_running(session)
            for federation_id, name in running:
                if federation_id in self._aggregating:
                    continue
                with isolated("a federation could not be advanced", federation=name):
                    if await self._advance_to_aggregation(federation_id) is None:
                        continue
                    self._aggregating.add(federation_id)
                    work = self._aggregate_next(federation_id, name)
                    begun.append(aggregations.create_task(work))
        return begun

    async def _advance_to_aggregation(self, federation_id: int) -> _DueAggregation | None:
        step: bool | _DueAggregation = True
        while step is True:
            step = await self._advance(federation_id)
        return step or None

    async def _aggregate_next(self, federation_id: int, name: str) -> bool:
        """Aggregates when there is a place for it; whether the federation may go on at once."""
        goes_on = False
        try:
            with isolated("a federation could not be advanced", outages_too=True, federation=name):
                async with self._places:
                    # Looked at again, since somebody else may have moved it while it waited.
                    due = await self._advance_to_aggregation(federation_id)
                    if due is not None:
                        with in_round(due.federation.specification_digest, due.round_.number):
                            goes_on = await self._aggregate(due)
        finally:
            self._aggregating.discard(federation_id)
        if goes_on:
            self._context.driver_wake.set()
        return goes_on

    async def _expire_leases(self) -> None:
        now = self._context.clock()
        expired: Sequence[ExpiredLease] = ()
        with isolated("leases could not be expired", outages_too=True):
            async with self._context.database.reading() as session:
                if not await assignment_store.has_expired_lease(session, now):
                    return
            async with self._context.database.writing() as session:
                expired = await assignment_store.expire_leases(session, now)
        for lease in expired:
            _log.info(
                "lease expired",
                federation=lease.federation,
                round=lease.round_number,
                client=lease.client,
                attempt=lease.attempt,
            )

    async def _tidy_up(self) -> None:
        with isolated("changes could not be looked up", outages_too=True):
            await self._ring_for_changes()
        await self._reporter.report()
        await self._sweeper.sweep()

    async def _ring_for_changes(self) -> None:
        """Wakes long polls for whatever any replica has changed since the last step."""
        async with self._context.database.reading() as session:
            activity = await federation_store.activity(session)
        for federation_id, now in activity:
            if self._last_activity.get(federation_id) != now:
                self._last_activity[federation_id] = now
                self._context.tasks_bell.ring(federation_id)

    async def _advance(self, federation_id: int) -> bool | _DueAggregation:
        """One transition of one federation; false if there is nothing to do now."""
        async with self._context.database.reading() as session:
            federation = await federation_store.get(session, federation_id)
            if federation.state != FederationState.RUNNING:
                return False
            live = await round_store.find_live(session, federation_id)
            facts = None if live is None else await round_store.facts(session, live)
        try:
            policy = self._context.specification(federation).round_policy
        except UnreadableSpecification as error:
            await moves.stop(self._context, federation, error)
            self._context.tasks_bell.ring(federation.id)
            return False
        if live is None or facts is None:
            step = await moves.take_next_step(self._context, federation_id)
            if not isinstance(step, WaitForClients | None):
                self._context.tasks_bell.ring(federation_id)
            return isinstance(step, OpenRound)
        verdict, reason = judge(facts, policy, self._context.clock())
        match verdict:
            case Verdict.WAIT:
                return False
            case Verdict.AGGREGATE:
                return _DueAggregation(federation, live, reason)
            case Verdict.GO_ON:
                await begin_next_phase(self._context, federation, live, reason)
                self._context.tasks_bell.ring(federation_id)
            case Verdict.FAIL:
                await moves.fail_if_still_due(self._context, federation, live, policy)
        return True

    async def _aggregate(self, due: _DueAggregation) -> bool:
        """Aggregates a round; false if another coordinator does."""
        federation, round_ = due.federation, due.round_
        lease = AggregationLease(self._context, round_, self._sleep)
        if not await lease.claim():
            return False
        log = _log.bind(federation=federation.name, round=round_.number)
        log.info("round aggregating", reason=due.reason)
        started = asyncio.get_running_loop().time()
        try:
            async with lease.kept():
                with span("aggregation", federation=federation.name, round=round_.number):
                    result = await self._compute(self._context, federation, round_)
                    note(bytes=result.update_bytes)
                lease.leave_to_commit()
                with span("commit", federation=federation.name, round=round_.number):
                    committed = await moves.commit(self._context, federation, round_, lease, result)
        except AggregationLeaseLost:
            committed = False
        except BodyLost:
            log.warning("aggregation dropped: its result was swept; it runs again after the lease")
            return True
        except AggregationFailed as error:
            await moves.fail_own(self._context, federation, round_, lease, str(error))
            return True
        except Exception as error:
            if outage_of(error) is not None:
                raise
            # Trying again would fail again; a failed round says why, and is not tried for ever.
            log.exception("aggregation failed")
            reason = f"the aggregation failed: {type(error).__name__}: {error}"
            await moves.fail_own(self._context, federation, round_, lease, reason)
            return True
        if not committed:
            log.warning("aggregation dropped: the round was taken over or closed meanwhile")
            return True
        metrics = self._context.metrics
        metrics.rounds_closed.labels(phase="committed").inc()
        metrics.aggregation_seconds.observe(asyncio.get_running_loop().time() - started)
        metrics.aggregation_bytes.inc(result.update_bytes)
        log.info(
            "round committed",
            updates=result.num_updates,
            not_heard_from=", ".join(result.not_heard_from[:MAX_NAMED]),
            num_not_heard_from=len(result.not_heard_from),
        )
        round_span(federation, round_)(self._context.clock())
        self._context.tasks_bell.ring(federation.id)
        return True
