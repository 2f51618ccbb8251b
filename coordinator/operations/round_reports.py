"""What rounds came to, newest first: read from their reports, counted where there is none yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from coordinator.context import Context
from coordinator.rules.round_report import RoundReport, Spread, report_of
from coordinator.store import federations as federation_store
from coordinator.store import round_reports as store
from coordinator.store.round_reports import RoundLine
from shared.rest.schema import RoundPhase, TaskKind
from shared.validation import MAX_COUNT

_COUNTED_AT_ONCE = 3
"""The live round and those that were closed within the last moments."""


@dataclass(frozen=True)
class ReportedRound:
    """A round and what it came to, or has so far.

    Attributes:
        report: None where nobody has counted yet.
    """

    number: int
    kind: TaskKind
    phase: RoundPhase
    reason: str | None
    new_version: int | None
    opened_at: datetime
    deadline_at: datetime
    closed_at: datetime | None
    claimed_at: datetime | None
    report: RoundReport | None

    def metric(self, name: str) -> Spread | None:
        """The spread of a metric; None if no client reported it."""
        return None if self.report is None else self.report.metrics.get(name)

    @property
    def accuracy(self) -> Spread | None:
        """After local training; of an evaluation, with the weights as they are."""
        return self.metric("accuracy_after" if self.kind is TaskKind.TRAIN else "accuracy")

    @property
    def seconds(self) -> float | None:
        """From its opening to its end."""
        return _between(self.opened_at, self.closed_at)

    @property
    def seconds_aggregating(self) -> float | None:
        """From the last claim of its aggregation to its end."""
        return _between(self.claimed_at, self.closed_at)

    @property
    def seconds_training(self) -> float | None:
        """Of the client that trained longest, as it says itself."""
        spread = self.metric("seconds_training")
        return None if spread is None else spread.most

    @property
    def seconds_waiting(self) -> float | None:
        """What is left: polls, downloads, uploads, and clients that began later."""
        until_claimed = _between(self.opened_at, self.claimed_at)
        if until_claimed is None:
            return None
        return max(0.0, until_claimed - (self.seconds_training or 0.0))


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


async def list_newest(
    context: Context, federation_name: str, limit: int, before: int = MAX_COUNT
) -> list[ReportedRound]:
    """At most ``limit`` rounds of numbers below ``before``, newest first.

    Raises:
        UnknownThing: there is no such federation.
    """
    counted: dict[int, RoundReport] = {}
    async with context.database.reading() as session:
        federation = await federation_store.find_by_name(session, federation_name)
        lines = await store.list_newest(session, federation.id, before, limit)
        for line in [line for line in lines if line.report is None][:_COUNTED_AT_ONCE]:
            parts = await store.parts_of(session, line.id)
            counted[line.id] = report_of(parts, line.metrics)
    return await asyncio.to_thread(_read, lines, counted)


def _read(lines: Sequence[RoundLine], counted: dict[int, RoundReport]) -> list[ReportedRound]:
    return [
        ReportedRound(
            number=line.number,
            kind=TaskKind(line.kind),
            phase=RoundPhase(line.phase),
            reason=line.reason,
            new_version=line.new_version,
            opened_at=line.opened_at,
            deadline_at=line.deadline_at,
            closed_at=line.closed_at,
            claimed_at=line.claimed_at,
            report=(
                counted.get(line.id)
                if line.report is None
                else RoundReport.model_validate_json(line.report)
            ),
        )
        for line in lines
    ]
