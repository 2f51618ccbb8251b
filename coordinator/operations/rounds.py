"""What rounds look like to administrators: phases, times, metrics and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.context import Context
from coordinator.rules.round_report import mean
from coordinator.store import assignments as assignment_store
from coordinator.store import federations as federation_store
from coordinator.store import rounds as round_store
from coordinator.store import weights as weights_store
from coordinator.store.tables import AssignmentRow, RoundRow, UpdateRow
from shared.rest.declines import from_text
from shared.rest.schema import (
    MAX_NAMED,
    AssignmentState,
    AssignmentView,
    RoundPhase,
    RoundSummary,
    RoundView,
    TaskKind,
)

MAX_LISTED = 500

Member = tuple[AssignmentRow, str, UpdateRow | None]


async def list_rounds(
    context: Context, federation_name: str, first: int, limit: int
) -> list[RoundSummary]:
    """Rounds from number ``first`` on, at most ``limit``, which is :data:`MAX_LISTED` or less."""
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        rounds = await round_store.list_numbered(session, federation.id, first, limit)
        digests = await weights_store.digests(
            session, federation.id, [round_.new_version for round_ in rounds]
        )
        members: dict[int, list[Member]] = {round_.id: [] for round_ in rounds}
        for member in await assignment_store.members(session, list(members)):
            members[member[0].round_id].append(member)
    return [_summarise(round_, members[round_.id], digests) for round_ in rounds]


async def show_round(context: Context, federation_name: str, number: int) -> RoundView:
    """One round with every client's part in it."""
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        round_ = await round_store.find(session, federation.id, number)
        members = await assignment_store.members(session, [round_.id])
        digests = await weights_store.digests(session, federation.id, [round_.new_version])
    summary = _summarise(round_, members, digests)
    views = [view_of(*member, is_masked=round_.is_protected) for member in members]
    return RoundView(**summary.model_dump(), assignments=views)


def _summarise(
    round_: RoundRow, members: Sequence[Member], digests: Mapping[int, str]
) -> RoundSummary:
    updates = [recorded for _, _, recorded in members if recorded is not None]
    unheard = sorted(name for _, name, recorded in members if recorded is None)
    return RoundSummary(
        number=round_.number,
        kind=TaskKind(round_.kind),
        phase=RoundPhase(round_.phase),
        reason=round_.reason,
        base_version=round_.base_version,
        new_version=round_.new_version,
        new_digest=None if round_.new_version is None else digests[round_.new_version],
        cohort_size=len(members),
        updates_received=len(updates),
        not_heard_from=unheard[:MAX_NAMED],
        opened_at=round_.opened_at,
        deadline_at=round_.deadline_at,
        closed_at=round_.closed_at,
        bytes_up=sum(recorded.size_bytes for recorded in updates),
        bytes_down=sum(assignment.bytes_down for assignment, _, _ in members),
        metrics=round_.metrics or _means([recorded.metrics for recorded in updates]),
    )


def _means(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    """The unweighted mean of each metric over the clients that report it."""
    values: dict[str, list[float]] = {}
    for report in reports:
        for name, value in report.items():
            values.setdefault(name, []).append(value)
    return {name: mean(given) for name, given in sorted(values.items())}


def view_of(
    assignment: AssignmentRow, client: str, recorded: UpdateRow | None, *, is_masked: bool
) -> AssignmentView:
    """One client's part in a round; of a secure sum nobody knows how many examples it had."""
    kind, reason = (None, None) if assignment.reason is None else from_text(assignment.reason)
    return AssignmentView(
        client=client,
        state=AssignmentState(assignment.state),
        reason=reason,
        reason_kind=kind,
        attempt=assignment.attempt,
        num_examples=None if recorded is None or is_masked else recorded.num_examples,
        metrics={} if recorded is None else recorded.metrics,
        bytes_up=0 if recorded is None else recorded.size_bytes,
        bytes_down=assignment.bytes_down,
        submitted_at=None if recorded is None else recorded.received_at,
    )
