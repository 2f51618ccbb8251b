"""Where federations stand, at a glance: progress, accuracy, clients, the next deadline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.context import Context
from coordinator.errors import UnreadableSpecification
from coordinator.operations import federations
from coordinator.rules.round_report import RoundReport, Spread
from coordinator.store import federation_overviews as store
from coordinator.store import federations as federation_store
from shared.federation.specification import FederationSpecification
from shared.rest.schema import FederationSummary

SEEN_WITHIN = timedelta(minutes=5)
"""Who has polled so lately counts as present; a worker polls every half minute at least."""


@dataclass(frozen=True)
class FederationOverview:
    """A federation at a glance.

    Attributes:
        summary: as the interface shows it.
        clients: however many there are, whatever their state.
        seen: of these, within :data:`SEEN_WITHIN`.
        deadline_at: of the live round, if there is one.
        accuracy: after local training, over the clients of the newest reported round.
        accuracy_round: the number of that round.
        epsilon: spent by the end of that round, where a method says so.
    """

    summary: FederationSummary
    clients: int
    seen: int
    deadline_at: datetime | None
    accuracy: Spread | None
    accuracy_round: int | None
    epsilon: float | None


async def list_all(context: Context) -> list[FederationOverview]:
    """Every federation, in order of name."""
    summaries = await federations.list_all(context)
    async with context.database.reading() as session:
        activity = await store.list_activity(session, context.clock() - SEEN_WITHIN)
    return [
        _overview(summary, activity[summary.name])
        for summary in summaries
        if summary.name in activity
    ]


async def show(context: Context, name: str) -> FederationOverview:
    """One federation.

    Raises:
        UnknownThing: there is none of this name.
    """
    view = await federations.show(context, name)
    async with context.database.reading() as session:
        activity = await store.list_activity(session, context.clock() - SEEN_WITHIN, name)
    return _overview(view, activity[name])


async def specification(context: Context, name: str) -> FederationSpecification | None:
    """What defines a federation; None if this version cannot read it.

    Raises:
        UnknownThing: there is none of this name.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, name)
    try:
        return context.specification(federation)
    except UnreadableSpecification:
        return None


def _overview(summary: FederationSummary, activity: store.Activity) -> FederationOverview:
    metrics: dict[str, Spread] = {}
    if activity.report is not None:
        metrics = RoundReport.model_validate_json(activity.report).metrics
    spent = metrics.get("epsilon_spent")
    return FederationOverview(
        summary=summary,
        clients=activity.clients,
        seen=activity.seen,
        deadline_at=activity.deadline_at,
        accuracy=metrics.get("accuracy_after"),
        accuracy_round=activity.reported_round,
        epsilon=None if spent is None else spent.most,
    )
