"""Rounds become few enough points, and nothing that a round lacks is made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.operations.round_reports import ReportedRound
from coordinator.page.curves import MOST_POINTS, Curve, curves_of
from coordinator.rules.round_report import RoundReport, Spread
from shared.rest.schema import RoundPhase, TaskKind

OPENED = datetime(2026, 1, 1, tzinfo=UTC)


def round_(number: int, metrics: dict[str, Spread] | None = None, **changed: Any) -> ReportedRound:
    report = RoundReport(
        cohort_size=2, updates=2, declined=0, bytes_up=20, bytes_down=40, metrics=metrics or {}
    )
    values: dict[str, Any] = {
        "number": number,
        "kind": TaskKind.TRAIN,
        "phase": RoundPhase.COMMITTED,
        "reason": None,
        "new_version": number,
        "opened_at": OPENED,
        "deadline_at": OPENED + timedelta(hours=1),
        "claimed_at": OPENED + timedelta(seconds=70),
        "closed_at": OPENED + timedelta(seconds=80),
        "report": report,
    }
    return ReportedRound(**values | changed)


def spread(mean: float, width: float = 0.1) -> Spread:
    return Spread(mean=mean, least=mean - width, most=mean + width)


def by_key(rounds: list[ReportedRound]) -> dict[str, Curve]:
    return {curve.key: curve for curve in curves_of(list(reversed(rounds)))}


def series(curve: Curve) -> dict[str, list[float | None]]:
    return {one["name"]: one["values"] for one in curve.data["series"]}


def test_accuracy_has_the_spread_over_clients() -> None:
    metrics = {"accuracy_after": spread(0.8), "accuracy_before": spread(0.7)}
    curve = by_key([round_(1, metrics), round_(2, metrics)])["accuracy"]
    assert curve.data["rounds"] == [1, 2]
    assert series(curve) == {"after training": [0.8, 0.8], "before training": [0.7, 0.7]}
    assert curve.data["band"]["least"] == [0.7, 0.7]
    assert curve.data["band"]["most"] == [0.9, 0.9]
    assert curve.summary == "Round 2: after training 0.8, before training 0.7"


def test_a_secure_sum_has_no_spread() -> None:
    metrics = {"accuracy_after": spread(0.8, 0.0), "epsilon_spent": spread(1.5, 0.0)}
    found = by_key([round_(1, metrics)])
    assert "band" not in found["accuracy"].data
    assert series(found["epsilon"]) == {"ε spent": [1.5]}
    assert "loss" not in found


def test_seconds_are_divided_into_training_waiting_and_aggregation() -> None:
    metrics = {"seconds_training": Spread(mean=30.0, least=10.0, most=50.0)}
    curve = by_key([round_(1, metrics)])["seconds"]
    assert series(curve) == {
        "training, slowest client": [50.0],
        "waiting and transfer": [20.0],
        "aggregation": [10.0],
    }


def test_what_was_not_measured_is_left_open() -> None:
    old = round_(1, claimed_at=None)
    curve = by_key([old, round_(2)])["seconds"]
    assert series(curve)["aggregation"] == [None, 10.0]
    assert "training, slowest client" not in series(curve)
    lies = round_(1, {"seconds_training": spread(1e6)})
    assert series(by_key([lies])["seconds"])["waiting and transfer"] == [0.0]


def test_rounds_without_a_result_are_no_points() -> None:
    others = [
        round_(1, phase=RoundPhase.FAILED),
        round_(2, kind=TaskKind.EVALUATE),
        round_(3, report=None),
        round_(4, phase=RoundPhase.OPEN),
    ]
    assert curves_of(others) == []
    assert by_key([*others, round_(5)])["bytes"].data["rounds"] == [5]


def test_many_rounds_are_drawn_together() -> None:
    rounds = [
        round_(number, {"loss_after": spread(float(number), 0.5)}) for number in range(1, 1001)
    ]
    curve = by_key(rounds)["loss"]
    assert curve.data["width"] == 4
    assert len(curve.data["rounds"]) == 250 <= MOST_POINTS
    assert curve.data["rounds"][:2] == [4, 8]
    assert series(curve)["after training"][0] == 2.5
    assert (curve.data["band"]["least"][0], curve.data["band"]["most"][0]) == (0.5, 4.5)


def test_huge_numbers_stay_finite() -> None:
    rounds = [round_(number, {"loss_after": spread(1.7e308, 0.0)}) for number in range(1, 602)]
    assert series(by_key(rounds)["loss"])["after training"][0] == 1.7e308
