"""A round's trace: what a collector gets of two workers and the coordinator, and what it must not.

Everything is in this process, so all spans come from one service.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from shared.terminal.logs import configure_logging
from shared.tracing.recorder import SENT_ATTRIBUTES
from shared.tracing.spans import recorded
from tests.support.coordinator import RunningCoordinator, on_sqlite, running_coordinator
from tests.support.hosted_clients import client_config, stub_parts
from tests.support.specifications import tiny_specification
from tests.support.stub_method import StubMethod
from tests.support.trace_collector import Collector, attributes, collecting
from tests.support.updates import update_bytes
from worker.rounds import loop
from worker.settings import WorkerConfig, WorkerSettings

pytestmark = [pytest.mark.integration, on_sqlite]

_SETTINGS = WorkerSettings(poll_wait_seconds=0.0, device="cpu")
_UPLOAD = "PUT /v1/federations/{federation_name}/rounds/{round_number}/updates/{client_name}"


@asynccontextmanager
async def traced_coordinator(
    database_url: str, folder: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningCoordinator]:
    """All spans have been sent when the block has ended."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    # What an operator may have set for other programs, and must not be followed here.
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", ".*")
    with recorded(wanted=True, service="hyperfl-test"):
        async with running_coordinator(database_url, folder, tick_seconds=0.05) as coordinator:
            yield coordinator


async def run_worker(coordinator: RunningCoordinator, folder: Path, name: str) -> None:
    config = WorkerConfig(
        coordinator_url="http://coordinator",
        federation="tiny",
        clients=(
            client_config(folder, name, enrolment_token=await coordinator.invite("tiny", name)),
        ),
    )
    method = StubMethod(tiny_specification().parameters)
    parts = stub_parts(method, httpx.ASGITransport(coordinator.app), lambda _: asyncio.sleep(0.02))
    await loop.run(config, _SETTINGS, threading.Event(), parts)


def named(spans: list[Span], name: str) -> list[Span]:
    return [one for one in spans if one.name == name]


def parents(spans: list[Span], name: str) -> set[str]:
    """Names of the spans that those called ``name`` are below of."""
    names = {one.span_id: one.name for one in spans}
    return {names.get(one.parent_span_id, "") for one in named(spans, name)}


async def test_a_round_is_one_trace_over_workers_and_coordinator(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "json")
    with collecting() as collector:
        async with traced_coordinator(
            database_url, tmp_path, collector, monkeypatch
        ) as coordinator:
            await coordinator.create(tiny_specification(rounds=1, minimum_updates=2))
            await coordinator.act("tiny", "start")
            driving = asyncio.create_task(coordinator.driver.run())
            async with asyncio.timeout(20):
                await asyncio.gather(
                    *(run_worker(coordinator, tmp_path, name) for name in ("ann", "bob"))
                )
            driving.cancel()
            await asyncio.wait([driving])
            secrets = [coordinator.admin["Authorization"].split()[1]]
    assert collector.services() == {"hyperfl-test"}
    (first,) = named(collector.spans(), "round")
    assert not first.parent_span_id
    spans = [one for one in collector.spans() if one.trace_id == first.trace_id]
    found = Counter(one.name for one in spans)
    for name in ("lease", "work", "download", "upload", "check"):
        assert found[name] == 2, name
    assert found["aggregation"] == found["commit"] == 1
    assert {"training", "encoding", "saving", "evaluation"} <= found.keys()
    for name in ("lease", "work", "aggregation", "commit"):
        assert parents(spans, name) == {"round"}
    for name in ("download", "training", "encoding", "saving", "upload"):
        assert parents(spans, name) == {"work"}
    assert parents(spans, _UPLOAD) == {"upload"}
    assert parents(spans, "check") == {_UPLOAD}
    assert all(one.status.code == Status.STATUS_CODE_UNSET for one in spans)

    checked = {attributes(one)["client"]: attributes(one) for one in named(spans, "check")}
    assert checked.keys() == {"ann", "bob"}
    assert checked["ann"] | {"bytes": 0} == {
        "federation": "tiny",
        "client": "ann",
        "round": 1,
        "attempt": 1,
        "bytes": 0,
    }
    sent = {attributes(one)["client"]: attributes(one)["bytes"] for one in named(spans, "upload")}
    assert sent == {name: one["bytes"] for name, one in checked.items()}
    assert attributes(first) == {"federation": "tiny", "round": 1, "kind": "train", "version": 0}

    everything = b"".join(collector.bodies)
    assert {name for one in collector.spans() for name in attributes(one)} <= SENT_ATTRIBUTES
    assert not any(one.events or one.links or one.status.message for one in collector.spans())
    secrets += [(tmp_path / name / "credential").read_text().strip() for name in ("ann", "bob")]
    for secret in (*secrets, "testclient", "http://coordinator", "attempt="):
        assert secret.encode() not in everything
    routes = {attributes(one).get("http.route", "") for one in collector.spans()}
    assert not any(str(one).endswith(("/task", "/heartbeat")) for one in routes)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    trace_ids = {line["event"]: line.get("trace_id") for line in lines}
    for event in ("work begins", "update sent", "update recorded", "round committed"):
        assert trace_ids[event] == first.trace_id.hex()
    assert trace_ids["worker ready"] is None


async def test_the_trace_outlives_a_coordinator_and_a_failure_is_its_end(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specification = tiny_specification(minimum_updates=2)
    with collecting() as collector:
        async with traced_coordinator(
            database_url, tmp_path, collector, monkeypatch
        ) as coordinator:
            await coordinator.started(specification, "ann", "bob")
            task = await coordinator.task("tiny", "ann")
            await coordinator.restart()
            assert (await coordinator.put(task, b"image-0815.png")).status_code == 422
            content = update_bytes(specification, task)
            foreign = {
                "traceparent": f"00-{32 * '1'}-{16 * '2'}-01",
                "tracestate": "x=image-0815.png",
                "baggage": "x=image-0815.png",
            }
            assert (await coordinator.put(task, content, **foreign)).status_code == 201
            coordinator.clock.advance(specification.round_policy.deadline_seconds + 1)
            await coordinator.driver.step()
            for path in ("/healthz", "/readyz", "/metrics"):
                await coordinator.http.get(path)
    (first,) = named(collector.spans(), "round")
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert attributes(first) == {"federation": "tiny", "round": 1, "kind": "train", "version": 0}
    took_seconds = (first.end_time_unix_nano - first.start_time_unix_nano) / 1e9
    assert took_seconds == pytest.approx(specification.round_policy.deadline_seconds + 1)
    statuses = [one.status.code for one in named(collector.spans(), "check")]
    assert statuses == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    assert b"image-0815" not in b"".join(collector.bodies)
    routes = {attributes(one).get("http.route") for one in collector.spans()}
    assert routes.isdisjoint({"/healthz", "/readyz", "/metrics"})
