"""Curves over rounds, as the page's script draws them: columns of numbers, few enough to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.operations.round_reports import ReportedRound
from shared.rest.schema import RoundPhase, TaskKind

MOST_POINTS = 300
"""Of a curve: more are drawn together, so many rounds to a point."""

Value = Callable[[ReportedRound], float | None]
Column = list[float | None]


@dataclass(frozen=True)
class Curve:
    """One picture.

    Attributes:
        key: for its address on the page.
        title: for people.
        unit: ``share``, ``bytes``, ``seconds`` or none.
        data: round numbers, then each series' values; what the script reads.
        summary: in words, for whoever does not see the picture.
    """

    key: str
    title: str
    unit: str
    data: dict[str, Any]
    summary: str


def curves_of(rounds: Sequence[ReportedRound]) -> list[Curve]:
    """The pictures of a federation whose rounds are given newest first; of those with numbers."""
    trained = [
        one
        for one in reversed(rounds)
        if one.kind is TaskKind.TRAIN
        and one.phase is RoundPhase.COMMITTED
        and one.report is not None
    ]
    if not trained:
        return []
    drawn = [
        _spread("accuracy", "Accuracy on clients' test data", "share", trained, "accuracy"),
        _spread("loss", "Loss on clients' test data", "", trained, "loss"),
        _curve(
            ("bytes", "Bytes of a round", "bytes"),
            trained,
            {
                "up, from clients": lambda one: _report(one).bytes_up,
                "down, to clients": lambda one: _report(one).bytes_down,
            },
        ),
        _curve(
            ("seconds", "Seconds of a round", "seconds"),
            trained,
            {
                "training, slowest client": lambda one: one.seconds_training,
                "waiting and transfer": lambda one: one.seconds_waiting,
                "aggregation": lambda one: one.seconds_aggregating,
            },
        ),
        _curve(
            ("epsilon", "Privacy budget ε spent", ""),
            trained,
            {"ε spent": lambda one: _most(one, "epsilon_spent")},
        ),
    ]
    return [one for one in drawn if one is not None]


def _spread(
    key: str, title: str, unit: str, rounds: Sequence[ReportedRound], metric: str
) -> Curve | None:
    """A metric before and after local training, the latter with its band over clients."""
    after, before = f"{metric}_after", f"{metric}_before"
    return _curve(
        (key, title, unit),
        rounds,
        {
            "after training": lambda one: _mean(one, after),
            "before training": lambda one: _mean(one, before),
        },
        band=(lambda one: _least(one, after), lambda one: _most(one, after)),
    )


def _curve(
    heading: tuple[str, str, str],
    rounds: Sequence[ReportedRound],
    series: dict[str, Value],
    band: tuple[Value, Value] | None = None,
) -> Curve | None:
    """A picture; None where no round has a number for it."""
    key, title, unit = heading
    width = -(-len(rounds) // MOST_POINTS)
    parts = [rounds[start : start + width] for start in range(0, len(rounds), width)]
    columns = {name: _column(parts, value, _middle) for name, value in series.items()}
    columns = {
        name: column
        for name, column in columns.items()
        if any(value is not None for value in column)
    }
    if not columns:
        return None
    data: dict[str, Any] = {
        "unit": unit,
        "rounds": [part[-1].number for part in parts],
        "width": width,
        "series": [{"name": name, "values": values} for name, values in columns.items()],
    }
    if band is not None:
        least, most = _column(parts, band[0], min), _column(parts, band[1], max)
        if least != most:
            data["band"] = {"name": "over clients", "least": least, "most": most}
    return Curve(key, title, unit, data, _in_words(rounds[-1], series))


def _in_words(last: ReportedRound, series: dict[str, Value]) -> str:
    told = [
        f"{name} {value:.4g}" for name, read in series.items() if (value := read(last)) is not None
    ]
    return f"Round {last.number}: {', '.join(told)}" if told else f"Up to round {last.number}"


def _column(
    parts: Sequence[Sequence[ReportedRound]],
    value: Value,
    together: Callable[[Sequence[float]], float],
) -> Column:
    found: Column = []
    for part in parts:
        known = [number for one in part if (number := value(one)) is not None]
        found.append(float(f"{together(known):.5g}") if known else None)
    return found


def _middle(values: Sequence[float]) -> float:
    # Each is divided first: their sum may exceed what a float holds.
    return sum(value / len(values) for value in values)


def _report(one: ReportedRound) -> Any:
    return one.report


def _mean(one: ReportedRound, name: str) -> float | None:
    spread = one.metric(name)
    return None if spread is None else spread.mean


def _least(one: ReportedRound, name: str) -> float | None:
    spread = one.metric(name)
    return None if spread is None else spread.least


def _most(one: ReportedRound, name: str) -> float | None:
    spread = one.metric(name)
    return None if spread is None else spread.most
