"""Who did what in which round: a table of clients and rounds, and the round that is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.context import Context
from coordinator.errors import UnreadableSpecification
from coordinator.operations import rounds
from coordinator.rules.outcomes import Outcome, outcome_of
from coordinator.rules.phases import LIVE_PHASES
from coordinator.store import client_pages, round_reports
from coordinator.store import federations as federation_store
from coordinator.store import round_cells as store
from coordinator.store import rounds as round_store
from coordinator.store.tables import FederationRow
from shared.rest.schema import AssignmentState, AssignmentView, RoundPhase, TaskKind
from shared.validation import MAX_COUNT


@dataclass(frozen=True)
class CellView:
    """What became of one client's work in one round; None where the round did not ask it."""

    outcome: Outcome
    reason: str | None


@dataclass(frozen=True)
class Matrix:
    """Clients in order of name against rounds, oldest first.

    Attributes:
        rounds: number and phase of each column.
        rows: a client's name, and a cell for each round.
        first: of the clients shown, among all, from 1 on.
        total: clients of the federation.
    """

    rounds: Sequence[tuple[int, RoundPhase]]
    rows: Sequence[tuple[str, Sequence[CellView | None]]]
    first: int
    total: int


async def matrix(
    context: Context, federation_name: str, *, page: int, clients: int, rounds: int
) -> Matrix:
    """The newest ``rounds`` rounds against the ``page``-th ``clients`` clients, from page 1 on."""
    first = (page - 1) * clients
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        lines = await round_reports.list_newest(session, federation.id, MAX_COUNT, rounds)
        names = await client_pages.list_names(session, federation.id, first, clients)
        total = await client_pages.count(session, federation.id)
        cells = await store.list_cells(
            session, [line.id for line in lines], [key for key, _ in names]
        )
    columns = list(reversed(lines))
    live = {line.id for line in columns if line.phase in LIVE_PHASES}
    views = {
        (cell.client_id, cell.round_id): CellView(
            outcome_of(
                cell.state,
                has_update=cell.has_update,
                has_declined=cell.reason is not None,
                is_round_live=cell.round_id in live,
            ),
            cell.reason,
        )
        for cell in cells
    }
    return Matrix(
        rounds=[(line.number, RoundPhase(line.phase)) for line in columns],
        rows=[(name, [views.get((key, line.id)) for line in columns]) for key, name in names],
        first=first + 1,
        total=total,
    )


@dataclass(frozen=True)
class OpenPartView:
    """One client's part in the open round.

    Attributes:
        heard_at: of its last heartbeat, or when it took the lease.
    """

    client: str
    outcome: Outcome
    reason: str | None
    attempt: int
    lease_expires_at: datetime | None
    heard_at: datetime | None
    last_seen_at: datetime | None


@dataclass(frozen=True)
class OpenRoundView:
    """The round that is not over, with the clients that it waits for first."""

    number: int
    kind: TaskKind
    phase: RoundPhase
    opened_at: datetime
    deadline_at: datetime
    cohort_size: int
    submitted: int
    outstanding: int
    parts: Sequence[OpenPartView]


async def open_round(
    context: Context, federation_name: str, most_parts: int
) -> OpenRoundView | None:
    """The federation's live round with at most ``most_parts`` of its clients; None without one."""
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        live = await round_store.find_live(session, federation.id)
        if live is None:
            return None
        counts = await store.count_states(session, live.id)
        parts = await store.list_open_parts(session, live.id, most_parts)
    lease = _lease_of(context, federation)
    submitted = counts.get(AssignmentState.SUBMITTED, 0)
    cohort_size = sum(counts.values())
    return OpenRoundView(
        number=live.number,
        kind=TaskKind(live.kind),
        phase=RoundPhase(live.phase),
        opened_at=live.opened_at,
        deadline_at=live.deadline_at,
        cohort_size=cohort_size,
        submitted=submitted,
        outstanding=cohort_size - submitted - counts.get(AssignmentState.DROPPED, 0),
        parts=[_view(part, lease) for part in parts],
    )


def _lease_of(context: Context, federation: FederationRow) -> timedelta | None:
    """How long a lease lasts from its beginning, or from a heartbeat on."""
    try:
        policy = context.specification(federation).round_policy
    except UnreadableSpecification:
        return None
    return timedelta(seconds=policy.lease_seconds)


def _view(part: store.OpenPart, lease: timedelta | None) -> OpenPartView:
    ends = part.lease_expires_at
    return OpenPartView(
        client=part.client,
        outcome=outcome_of(
            part.state,
            has_update=part.has_update,
            has_declined=part.reason is not None,
            is_round_live=True,
        ),
        reason=part.reason,
        attempt=part.attempt,
        lease_expires_at=ends,
        heard_at=None if ends is None or lease is None else ends - lease,
        last_seen_at=part.last_seen_at,
    )


@dataclass(frozen=True)
class PartView:
    """One client's part in a round, whether that is over or not."""

    outcome: Outcome
    assignment: AssignmentView


async def list_parts(
    context: Context, federation_name: str, round_number: int, *, page: int, size: int
) -> list[PartView]:
    """The ``page``-th ``size`` clients of a round in order of name, from page 1 on.

    Raises:
        UnknownThing: there is no such federation or round.
    """
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        round_ = await round_store.find(session, federation.id, round_number)
        found = await store.list_parts(session, round_.id, (page - 1) * size, size)
    is_live = round_.phase in LIVE_PHASES
    return [
        PartView(
            outcome=outcome_of(
                assignment.state,
                has_update=recorded is not None,
                has_declined=assignment.reason is not None,
                is_round_live=is_live,
            ),
            assignment=rounds.view_of(assignment, name, recorded, is_masked=round_.is_protected),
        )
        for assignment, name, recorded in found
    ]
