"""What a round came to over its whole cohort: counted once when it is closed, then kept. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from shared.rest.declines import DeclineKind
from shared.rest.schema import MAX_METRICS


@dataclass(frozen=True)
class RoundPart:
    """One client's part in a round; without an update, the last two are None.

    ``decline`` is the kind of its reason, where it declined.
    """

    decline: DeclineKind | None
    bytes_down: int
    bytes_up: int | None
    metrics: Mapping[str, float] | None


class Spread(BaseModel):
    """A metric over the clients that reported it."""

    model_config = ConfigDict(frozen=True)

    mean: float
    least: float
    most: float


class RoundReport(BaseModel):
    """A round's counts, its bytes of HTTP bodies, and the spread of each metric by its name.

    A report of before ``declined_by_kind`` has none of it.
    """

    model_config = ConfigDict(frozen=True)

    cohort_size: int
    updates: int
    declined: int
    declined_by_kind: dict[DeclineKind, int] = {}
    bytes_up: int
    bytes_down: int
    metrics: dict[str, Spread]


def report_of(parts: Sequence[RoundPart], means: Mapping[str, float] | None) -> RoundReport:
    """The report of a round.

    ``means`` are known in place of the clients' own metrics where their updates were summed under
    masks. Of the metrics' names those stay that most clients report, as many as one may report.
    """
    updates = [part for part in parts if part.bytes_up is not None]
    values: dict[str, list[float]] = {}
    for part in updates:
        for name, value in (part.metrics or {}).items():
            values.setdefault(name, []).append(value)
    for name, value in (means or {}).items():
        values[name] = [value]
    kept = Counter({name: len(given) for name, given in sorted(values.items())})
    declines = Counter(part.decline for part in parts if part.decline is not None)
    return RoundReport(
        cohort_size=len(parts),
        updates=len(updates),
        declined=declines.total(),
        declined_by_kind={kind: declines[kind] for kind in DeclineKind if kind in declines},
        bytes_up=sum(part.bytes_up or 0 for part in updates),
        bytes_down=sum(part.bytes_down for part in parts),
        metrics={
            name: Spread(mean=mean(values[name]), least=min(values[name]), most=max(values[name]))
            for name, _ in kept.most_common(MAX_METRICS)
        },
    )


def mean(values: Sequence[float]) -> float:
    """Of finite values; their sum may exceed what a float holds, and then it is taken exactly."""
    total = sum(values)
    return total / len(values) if math.isfinite(total) else statistics.mean(values)
