"""A coordinator that a signal stops sends its last spans before it ends."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.processes import serving_coordinator
from tests.support.trace_collector import attributes, collecting

pytestmark = pytest.mark.e2e


def test_the_spans_of_a_coordinators_last_seconds_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("HYPERFL_TRACES", "1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # not before the end
        with serving_coordinator(tmp_path) as coordinator:
            assert httpx.get(f"{coordinator.url}/v1/federations").status_code == 401
            assert not collector.bodies
        (span,) = collector.spans()
    assert collector.services() == {"hyperfl-coordinator"}
    assert attributes(span)["http.route"] == "/v1/federations"
    assert "Traceback" not in coordinator.process.log_file.read_text()
