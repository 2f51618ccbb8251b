"""What a scrape is answered: this process's counters, and what the database holds just now."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError

from coordinator.context import Context
from coordinator.database.activity import DatabaseActivity
from coordinator.database.outages import Outage
from coordinator.database.shared_question import SharedQuestion
from coordinator.rules.phases import LIVE_PHASES
from coordinator.store import metrics as metrics_store
from coordinator.store.metrics import LiveAssignments
from shared.rest.schema import AssignmentState, FederationState

_ANSWER_SECONDS = 5.0
"""Half of what Prometheus waits for a scrape: without the database, the other half is for the rest.
"""
_OUTAGES = {Outage.UNANSWERED: "unanswered", Outage.STORAGE_FULL: "storage-full"}


@dataclass(frozen=True)
class _Holdings:
    """What the database held at one moment."""

    federations: Mapping[str, int]
    live: Sequence[LiveAssignments]
    size_bytes: int
    now: datetime


class Scrapes:
    """Answers scrapes; the database is asked once for those that come together."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._question = SharedQuestion(self._ask, context.clock)
        context.metrics.driver_silence_seconds.set_function(context.driver_pulse.silent_seconds)

    async def answer(self) -> bytes:
        """Prometheus' text format. Where the database does not answer, what it holds is left out.

        ``hyperfl_database_up`` says which it is.
        """
        holdings = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                holdings = await self._question.answer()
        except (SQLAlchemyError, TimeoutError):
            pass  # the log of outages has it
        asked = CollectorRegistry()
        asked.register(_Families(_database(self._context.database.activity, holdings)))
        return generate_latest(self._context.metrics.registry) + generate_latest(asked)

    async def _ask(self) -> _Holdings:
        database = self._context.database
        async with database.reading() as session:
            return _Holdings(
                await metrics_store.federations_by_state(session),
                await metrics_store.live_assignments(session),
                await metrics_store.size_bytes(session, is_sqlite=database.is_sqlite),
                self._context.clock(),
            )


class _Families(Collector):
    """Metrics that are made for one scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _database(activity: DatabaseActivity, holdings: _Holdings | None) -> Iterator[Metric]:
    transactions = CounterMetricFamily(
        "hyperfl_database_transactions",
        "Transactions that have ended, by what they were for and how they ended",
        labels=["kind", "outcome"],
    )
    for wrote, kind in ((False, "read"), (True, "write")):
        transactions.add_metric([kind, "committed"], activity.committed[wrote])
        transactions.add_metric([kind, "failed"], activity.failed[wrote])
    yield transactions
    yield SummaryMetricFamily(
        "hyperfl_database_wait_seconds",
        "Seconds until transactions began: for a turn to write, a connection, the database",
        count_value=activity.begun,
        sum_value=activity.waited_seconds,
    )
    outages = CounterMetricFamily(
        "hyperfl_database_outages",
        "Transactions that the database did not serve",
        labels=["reason"],
    )
    for outage, reason in _OUTAGES.items():
        outages.add_metric([reason], activity.outages[outage])
    yield outages
    yield GaugeMetricFamily(
        "hyperfl_database_up",
        "Whether the database answered this scrape",
        value=float(holdings is not None),
    )
    if holdings is not None:
        yield from _held(holdings)


def _held(holdings: _Holdings) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hyperfl_database_size_bytes", "Bytes of the database", value=holdings.size_bytes
    )
    yield _by(
        "hyperfl_federations",
        "Federations, by state",
        "state",
        {state.value: holdings.federations.get(state, 0) for state in FederationState},
    )
    rounds = {one.round_id: one for one in holdings.live}
    in_phase = Counter(one.phase for one in rounds.values())
    yield _by(
        "hyperfl_live_rounds",
        "Rounds that are not over, by phase",
        "phase",
        {phase.value: in_phase[phase] for phase in sorted(LIVE_PHASES)},
    )
    in_state: Counter[str | None] = Counter()
    for one in holdings.live:
        in_state[one.state] += one.count
    yield _by(
        "hyperfl_live_assignments",
        "Assignments of rounds that are not over, by state",
        "state",
        {state.value: in_state[state] for state in AssignmentState},
    )
    opened = [(holdings.now - one.opened_at).total_seconds() for one in rounds.values()]
    overdue = [(holdings.now - one.deadline_at).total_seconds() for one in rounds.values()]
    yield GaugeMetricFamily(
        "hyperfl_oldest_live_round_age_seconds",
        "Seconds since the oldest round opened that is not over; 0 without any",
        value=max(opened, default=0.0),
    )
    yield GaugeMetricFamily(
        "hyperfl_longest_overdue_round_seconds",
        "Seconds since the earliest deadline of a round that is not over; 0 before it",
        value=max([0.0, *overdue]),
    )


def _by(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
