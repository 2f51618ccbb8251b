"""Spans without a collector: whose trace they belong to, and what asks for them in vain."""

from __future__ import annotations

import json
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import structlog

from shared.terminal.logs import configure_logging
from shared.tracing.spans import (
    TracesUnusable,
    current_recorder,
    current_trace_id,
    in_round,
    note,
    past_span,
    recorded,
    request_headers,
    span,
)

DIGEST, OTHER_DIGEST = "sha256:" + 64 * "a", "sha256:" + 64 * "b"


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")


def trace_id_in_round(digest: str, number: int) -> str | None:
    with recorded(wanted=True, service="test"), in_round(digest, number):
        return current_trace_id()


@pytest.mark.parametrize("exporter", [None, "none"])
def test_without_traces_nothing_is_recorded(
    exporter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if exporter is not None:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    with recorded(wanted=exporter is not None, service="test"):
        assert current_recorder() is None
        with in_round(DIGEST, 1), span("training", client="a"):
            note(bytes=1)
            past_span("lease", 1.0)
            assert current_trace_id() is None
            assert request_headers() == {}


def test_a_rounds_trace_is_the_same_in_every_process_and_no_other_rounds() -> None:
    first = trace_id_in_round(DIGEST, 1)
    assert first is not None
    assert len(first) == 32
    assert trace_id_in_round(DIGEST, 1) == first
    assert len({first, trace_id_in_round(DIGEST, 2), trace_id_in_round(OTHER_DIGEST, 1)}) == 3


def test_a_request_names_the_span_that_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")  # nothing to send at the end
    with recorded(wanted=True, service="test"):
        assert request_headers() == {}
        with in_round(DIGEST, 1):
            version, trace_id, outer, flags = request_headers()["traceparent"].split("-")
            assert (version, trace_id, flags) == ("00", current_trace_id(), "00")
            with span("upload"):
                inner = request_headers()["traceparent"].split("-")
            assert inner[1] == trace_id
            assert inner[2] != outer


def sampled_rounds() -> list[str]:
    with recorded(wanted=True, service="test"):
        found = []
        for number in range(40):
            with in_round(DIGEST, number):
                found.append(request_headers()["traceparent"][-2:])
        return found


def test_a_share_of_rounds_is_sampled_and_every_process_samples_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    first = sampled_rounds()
    assert set(first) == {"00", "01"}
    assert sampled_rounds() == first


def test_events_have_a_trace_id_within_a_span_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    configure_logging("info", "json")
    with recorded(wanted=True, service="test"):
        structlog.get_logger().info("outside")
        with in_round(DIGEST, 1), span("training"):
            structlog.get_logger().info("inside", trace_id="forged")
            trace_id = current_trace_id()
    outside, inside = map(json.loads, stream.getvalue().splitlines())
    assert "trace_id" not in outside
    assert inside["trace_id"] == trace_id


def test_a_collector_that_is_away_delays_no_span_and_the_end_for_no_longer_than_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = time.monotonic()
    with recorded(wanted=True, service="test", close_seconds=0.2):
        for _ in range(5000):  # more than wait in the queue
            with span("training"):
                pass
        spans_made = time.monotonic()
    assert time.monotonic() - spans_made < 1.0
    assert spans_made - started < 5.0
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("OTEL_TRACES_EXPORTER", "console", "'console' is not known, only 'otlp'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "'grpc' is not known, only 'http/protobuf'"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "only 'http/protobuf'"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "begins with http:// or https://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "begins with http:// or https://"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with (
        pytest.raises(TracesUnusable, match=f"^{variable}: .*{reason}"),
        recorded(wanted=True, service="test"),
    ):
        pass
    assert current_recorder() is None


def test_an_error_passes_through_a_span(tmp_path: Path) -> None:
    with (
        recorded(wanted=True, service="test", close_seconds=0.0),
        pytest.raises(FileNotFoundError),
        span("training"),
    ):
        (tmp_path / "away").read_text()
