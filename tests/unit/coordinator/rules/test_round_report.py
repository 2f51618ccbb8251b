"""What is counted over a round's cohort."""

from __future__ import annotations

import sys

import pytest

from coordinator.rules.round_report import RoundPart, RoundReport, Spread, mean, report_of
from shared.rest.declines import DeclineKind
from shared.rest.schema import MAX_METRICS


def part(metrics: dict[str, float] | None, *, decline: DeclineKind | None = None) -> RoundPart:
    sent = None if metrics is None else 10
    return RoundPart(decline, bytes_down=5, bytes_up=sent, metrics=metrics)


def test_counts_bytes_and_spreads() -> None:
    parts = [
        part({"a": 1.0}),
        part({"a": 3.0, "b": 7.0}),
        part(None, decline=DeclineKind.DISK),
        part(None),
    ]
    assert report_of(parts, None) == RoundReport(
        cohort_size=4,
        updates=2,
        declined=1,
        declined_by_kind={DeclineKind.DISK: 1},
        bytes_up=20,
        bytes_down=20,
        metrics={
            "a": Spread(mean=2.0, least=1.0, most=3.0),
            "b": Spread(mean=7.0, least=7.0, most=7.0),
        },
    )


def test_of_a_secure_sum_the_means_are_known_alone() -> None:
    report = report_of([part({}), part({})], {"a": 0.5})
    assert report.metrics == {"a": Spread(mean=0.5, least=0.5, most=0.5)}


def test_clients_that_report_many_names_do_not_make_a_report_large() -> None:
    parts = [
        part({"a": 1.0} | {f"x{client}_{index}": 0.0 for index in range(63)}) for client in range(5)
    ]
    report = report_of(parts, None)
    assert len(report.metrics) == MAX_METRICS
    assert report.metrics["a"].mean == 1.0


@pytest.mark.parametrize("value", [1e308, -1e308, sys.float_info.max])
def test_a_mean_stays_finite(value: float) -> None:
    assert mean([value, value]) == value


def test_a_report_survives_being_written() -> None:
    report = report_of([part({"a": 1e308}), part({"a": -1e308})], None)
    assert RoundReport.model_validate_json(report.model_dump_json()) == report


def test_a_round_without_clients() -> None:
    assert report_of([], None).cohort_size == 0


def test_a_report_of_before_kinds_is_read() -> None:
    report = report_of([part(None, decline=DeclineKind.OTHER)], None)
    before = report.model_dump(exclude={"declined_by_kind"})
    assert RoundReport.model_validate(before).declined_by_kind == {}
